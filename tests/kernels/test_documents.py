"""Packed documents: what follows from the boundaries, and which boundaries are refused."""

from __future__ import annotations

import pytest
import torch

from unmask_kernels import Documents, philox
from unmask_kernels.documents import BOUNDS, TILE_ROWS, TILES_HEAD

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st


def offsets(*lengths: int) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def test_positions_restart_and_ids_count_in_every_document() -> None:
    documents = Documents.build(offsets(3, 0, 2))
    assert documents.positions.tolist() == [0, 1, 2, 0, 1]
    assert documents.document_ids.tolist() == [0, 0, 0, 2, 2]
    assert (documents.tokens, documents.max_seqlen) == (5, 3)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_lists_agree_with_a_loop_over_the_documents(lengths: list[int]) -> None:
    documents = Documents.build(offsets(*lengths))
    expected = [(index, position) for index, length in enumerate(lengths) for position in range(length)]
    assert list(zip(documents.document_ids.tolist(), documents.positions.tolist(), strict=True)) == expected
    ordered = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    assert documents.order.tolist() == ordered
    assert documents.positions.dtype == documents.document_ids.dtype == documents.row_keys.dtype == torch.int64
    assert documents.order.dtype == documents.tiles.dtype == torch.int32


LENGTHS = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 700)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, unused=st.integers(0, 3))
def test_every_row_of_every_document_is_in_exactly_one_tile(lengths: list[int], unused: int) -> None:
    documents = Documents.build(offsets(*lengths, *[0] * unused))
    head, slots = documents.tiles[:TILES_HEAD], len(lengths) + unused
    tiles = documents.tiles[TILES_HEAD + slots :]
    assert len(tiles) == documents.tokens // TILE_ROWS + slots
    valid = int(head[0, 1])
    assert valid == sum(-(-length // TILE_ROWS) for length in lengths)
    assert not tiles[valid:].any()
    rows = []
    for document, first, start, length in tiles[:valid].tolist():
        assert (start, length) == (int(documents.cu_seqlens[document]), lengths[document])
        assert first % TILE_ROWS == 0 and first < length
        rows += range(start + first, start + min(first + TILE_ROWS, length))
    assert sorted(rows) == list(range(documents.tokens))
    # a document's last tile comes first: of a causal one it has the most to do
    steps = tiles[:valid].diff(dim=0)
    assert bool((steps[steps[:, 0] == 0, 1] == -TILE_ROWS).all())


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS)
def test_the_head_bounds_documents_and_tiles_of_a_range_of_lengths_sorted_by_cost(lengths: list[int]) -> None:
    tiles = Documents.build(offsets(*lengths)).tiles
    listed = tiles[TILES_HEAD : TILES_HEAD + len(lengths)]
    assert sorted(listed[:, 0].tolist()) == list(range(len(lengths)))
    for part, count in ((listed, 0), (tiles[TILES_HEAD + len(lengths) :], 1)):
        costs = part[:, 3].tolist()
        assert costs == sorted(costs, reverse=True)
        for index, bound in enumerate(BOUNDS):
            assert int(tiles[index, count]) == sum(cost > bound for cost in costs)


@pytest.mark.parametrize("lengths", [[70_000], [1] * 20_000], ids=["one", "20000"])
def test_lists_one_document_or_twenty_thousand(lengths: list[int]) -> None:
    documents = Documents.build(offsets(*lengths))
    assert int(documents.tiles[0, 0]) == len(lengths)
    assert int(documents.tiles[0, 1]) == max(len(lengths), -(-sum(lengths) // TILE_ROWS))
    # none is longer than the last bound, where the first list of a kernel begins
    assert not documents.tiles[len(BOUNDS) - 1 : TILES_HEAD].any()


def test_building_the_lists_reads_nothing_back() -> None:
    # a meta tensor has no values: reading one, or a shape that depends on one, is an error
    boundaries = torch.zeros(4, dtype=torch.int32, device="meta")
    documents = Documents.build(boundaries, tokens=500, max_seqlen=500)
    assert documents.tiles.shape == (TILES_HEAD + 3 + 500 // TILE_ROWS + 3, 4)
    assert documents.positions.shape == (500,)


def test_row_keys_depend_on_the_document_and_position_not_on_the_place() -> None:
    keys = torch.tensor([11, 22, 33])
    packed = Documents.build(offsets(4, 2, 3), keys)
    alone = Documents.build(offsets(3), keys[2:])
    assert torch.equal(packed.row_keys[6:], alone.row_keys)
    assert torch.equal(packed.row_keys[:4], philox.row_keys(torch.tensor(11), torch.arange(4)))


def test_longest_is_a_bound_and_stays_as_given() -> None:
    assert Documents.build(offsets(3, 5), max_seqlen=512).max_seqlen == 512
    assert Documents.build(offsets(3, 5), max_seqlen=5).max_seqlen == 5


def test_a_document_without_tokens_has_some_row_for_its_first() -> None:
    assert Documents.build(offsets(0, 3, 0, 2, 0)).first_rows().tolist() == [0, 0, 3, 3, 4]
    assert Documents.build(offsets(0, 0)).first_rows().tolist() == [0, 0]


def test_comparing_documents_asks_for_the_object_and_does_not_raise() -> None:
    documents = Documents.build(offsets(3, 5))
    assert documents == documents
    assert documents != Documents.build(offsets(3, 5))
    assert documents in {documents}


@pytest.mark.parametrize("non_blocking", [False, True])
def test_moves_and_pins_every_list_as_asked(non_blocking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    moved, pinned, documents = [], [], Documents.build(offsets(3, 5))
    lists = sum(isinstance(getattr(documents, field), torch.Tensor) for field in documents.__slots__)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *to, **how: moved.append((*to, how)) or x)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    documents.to("cuda", non_blocking=non_blocking).pin_memory()
    assert moved == [("cuda", {"non_blocking": non_blocking})] * lists and len(pinned) == lists == 7


def test_moves_as_a_whole() -> None:
    documents = Documents.build(offsets(3, 5)).to("meta")
    assert {documents.cu_seqlens.device.type, documents.row_keys.device.type, documents.order.device.type} == {"meta"}
    assert documents.tokens == 8


@pytest.mark.parametrize(
    ("boundaries", "options", "message"),
    [
        (torch.tensor([0, 4]), {}, "cu_seqlens must be int32, got torch.int64; use cu_seqlens.int()"),
        (torch.zeros(2, 3).int(), {}, r"cu_seqlens must have shape \(S \+ 1,\) with S >= 1, got \(2, 3\)"),
        (torch.tensor([0]).int(), {}, r"cu_seqlens must have shape \(S \+ 1,\) with S >= 1, got \(1,\)"),
        (torch.tensor([1, 4]).int(), {}, "cu_seqlens must start at 0, starts at 1"),
        (torch.tensor([0, 5, 3]).int(), {}, "entry 2 is 3 after 5; give offsets, not lengths"),
        (torch.tensor([0, 4]).int(), {"tokens": 6}, r"end at the number of tokens \(6\), ends at 4"),
        (torch.tensor([0, 4]).int(), {"max_seqlen": 3}, "max_seqlen must bound every document, is 3 but one has 4"),
        (torch.tensor([0, 4]).int(), {"keys": torch.tensor([1, 2])}, r"keys must be int64 of shape \(1,\)"),
        (torch.tensor([0, 4]).int(), {"keys": torch.tensor([1]).int()}, "keys must be int64 .* got torch.int32"),
        (torch.tensor([0, 4]).int(), {"keys": [1]}, r"keys must be an int64 tensor, got list; use torch.tensor\(keys,"),
        (
            torch.tensor([0, 4]).int(),
            {"keys": torch.zeros(1, dtype=torch.int64, device="meta")},
            r"keys must be on cpu, the device of cu_seqlens, got meta; move it with keys.to\('cpu'\)",
        ),
        ([0, 4], {}, r"cu_seqlens must be an int32 tensor, got list; use torch.tensor\(cu_seqlens,"),
        (torch.zeros(2, dtype=torch.int32, device="meta"), {}, "tokens and max_seqlen must be given"),
        (torch.zeros(2, dtype=torch.int32, device="meta"), {"tokens": 4}, "tokens and max_seqlen must be given"),
    ],
)
def test_refuses_wrong_boundaries_in_one_sentence(
    boundaries: torch.Tensor, options: dict[str, object], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=f"documents: .*{message}"):
        Documents.build(boundaries, **options)  # type: ignore[arg-type]
