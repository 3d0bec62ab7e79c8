"""PackedBatch: what `pack` and `assemble` put where, and what they refuse."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.batch import IGNORED, Cursor, PackedBatch, assemble, pack

DOCUMENTS = [[101, 5, 6, 102], [101, 7, 102], [101, 102]]


def test_comparing_batches_asks_for_the_object_and_does_not_raise() -> None:
    batch = pack([[2, 7, 3]])
    assert batch == batch
    assert batch != pack([[2, 7, 3]])


def test_packs_documents_one_after_the_other() -> None:
    batch = pack(DOCUMENTS)
    assert batch.ids.tolist() == [101, 5, 6, 102, 101, 7, 102, 101, 102]
    assert batch.documents.cu_seqlens.tolist() == [0, 4, 7, 9]
    assert batch.documents.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    assert batch.documents.document_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert batch.segments.tolist() == [0] * 9
    assert batch.real_tokens == 9
    assert batch.masked is batch.labels is batch.cursor is None


TEXTS = ["the cat sat", "a dog"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            TEXTS,
            r"documents\[0\] must be a list of token ids, got the text 'the cat sat'; call unmask\.pack\(tokenizer",
        ),
        (TEXTS[0], r"must be lists of token ids, got a text; call unmask\.pack\(tokenizer\(texts, truncation=True"),
        (DOCUMENTS[0], r"documents\[0\] must be a list of token ids, got int; pass a list of documents, and \[ids\]"),
        (torch.tensor(DOCUMENTS[0]), r"got Tensor; pass a list of documents, and \[ids\] for one"),
        ({"input_ids": DOCUMENTS}, r"got a dict; pass its 'input_ids', made without return_tensors and padding"),
        (iter(DOCUMENTS), r"must be lists of token ids, got list_iterator; pass list\(\.\.\.\) of it"),
    ],
)
def test_documents_that_are_no_lists_of_ids_are_named_with_what_to_pass(given: object, told: str) -> None:
    with pytest.raises(TypeError, match=f"^pack: .*{told}"):
        pack(given)  # type: ignore[arg-type]


def test_the_advice_about_documents_works() -> None:
    def tokenizer(texts: list[str], truncation: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[101, *range(5, 5 + len(text.split())), 102] for text in texts]}

    assert pack(tokenizer(TEXTS, truncation=True)["input_ids"]).real_documents == 2
    assert pack([DOCUMENTS[0]]).real_documents == 1
    assert pack(list(iter(DOCUMENTS))).real_documents == 3
    assert pack(np.array([[101, 5, 102], [101, 6, 102]])).real_documents == 2
    assert pack([torch.tensor(ids) for ids in DOCUMENTS]).real_documents == 3


def test_segments_follow_their_tokens() -> None:
    batch = pack(DOCUMENTS, segments=[[0, 0, 1, 1], [0, 0, 0], [0, 1]])
    assert batch.segments.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 1]


def test_fills_the_capacity_with_inert_documents_of_at_most_the_longest() -> None:
    batch = pack(DOCUMENTS, tokens=20, max_seqlen=4, pad_id=3)
    assert batch.ids[9:].tolist() == [3] * 11
    assert batch.documents.cu_seqlens.tolist() == [0, 4, 7, 9, 13, 17, 20]
    assert batch.documents.max_seqlen == 4
    assert batch.real_tokens == 9


def test_keys_name_documents_for_dropout_and_repeat_under_a_seed() -> None:
    assert pack(DOCUMENTS, keys=[9, 8, 7]).documents.keys.tolist() == [9, 8, 7]
    torch.manual_seed(3)
    first = pack(DOCUMENTS).documents.keys
    second = pack(DOCUMENTS).documents.keys
    assert len({*first.tolist(), *second.tolist()}) == 6
    torch.manual_seed(3)
    assert torch.equal(pack(DOCUMENTS).documents.keys, first)
    assert not torch.equal(first, second)


def test_says_what_it_holds_in_a_line() -> None:
    assert repr(pack([[2, 5, 3], [2, 3]], tokens=8, max_seqlen=4)) == (
        "PackedBatch(5 real tokens in Documents(3 slots, 8 tokens, none longer than 4, on cpu))"
    )


def test_moves_every_tensor_at_once() -> None:
    moved = pack(DOCUMENTS, keys=[1, 2, 3]).to("meta")
    assert moved.ids.device.type == moved.documents.cu_seqlens.device.type == "meta"
    assert moved.documents.tokens == 9


def test_goes_to_a_gpu_through_page_locked_memory_or_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pack(DOCUMENTS, keys=[1, 2, 3])
    pinned: list[torch.Tensor] = []
    copied: list[torch.Tensor] = []

    def pin_memory(x: torch.Tensor) -> torch.Tensor:
        pinned.append(x)
        return x

    def to(x: torch.Tensor, device: object, *, non_blocking: bool) -> torch.Tensor:
        copied.append(x)
        return x

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "to", to)
    batch.to("cuda:0", non_blocking=True)
    assert len(copied) > 2
    assert [id(x) for x in pinned] == [id(x) for x in copied]
    for device, non_blocking in (("cuda:0", False), ("meta", True)):
        batch.to(device, non_blocking=non_blocking)
    assert len(copied) == 3 * len(pinned)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), spare=st.integers(0, 30), slots=st.integers(0, 5))
def test_every_capacity_is_filled_exactly(lengths: list[int], spare: int, slots: int) -> None:
    total, max_seqlen = sum(lengths), max(lengths)
    padding = -(-spare // max_seqlen)
    masked = np.arange(0, total, 3)
    batch = assemble(
        np.arange(total),
        np.array(lengths),
        keys=np.arange(len(lengths)),
        tokens=total + spare,
        sequences=len(lengths) + padding + slots,
        max_seqlen=max_seqlen,
        masked=masked,
        labels=masked + 1,
        masked_capacity=len(masked) + slots,
        cursor=Cursor(1, 2, 3),
    )
    documents = batch.documents
    sizes = documents.cu_seqlens.diff()
    assert sizes[: len(lengths)].tolist() == lengths
    assert sizes[len(lengths) :].sum() == spare
    assert sizes.max() <= max_seqlen
    assert len(sizes) == len(lengths) + padding + slots
    assert documents.cu_seqlens[-1] == len(batch.ids) == total + spare
    assert batch.masked is not None
    assert batch.labels is not None
    assert (batch.labels != IGNORED).sum() == len(masked)
    assert torch.equal(batch.labels[: len(masked)], batch.masked[: len(masked)] + 1)
    assert batch.cursor == (1, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack([]), "pack: documents must hold at least one list of token ids, got none"),
        (lambda: pack(DOCUMENTS, segments=[[0]]), "pack: segments must have one list per document (3), got 1"),
        (
            lambda: pack(DOCUMENTS, segments=[[0] * 4, [0], [0] * 2]),
            "pack: segments[1] must have 3 entries, the tokens of its document, got 1",
        ),
        (lambda: pack(DOCUMENTS, keys=[1]), "pack: keys must hold one key per document (3), got 1"),
        (lambda: pack(DOCUMENTS, tokens=8), "assemble: tokens has capacity 8 but 9 are needed; raise tokens"),
        (
            lambda: assemble(np.arange(9), np.array([4, 5]), keys=np.arange(2), tokens=20, sequences=3, max_seqlen=5),
            "assemble: sequences has capacity 3 but 5 are needed; raise sequences",
        ),
        (
            lambda: assemble(
                np.arange(4),
                np.array([4]),
                keys=np.arange(1),
                tokens=4,
                sequences=1,
                max_seqlen=4,
                masked=np.arange(2),
                labels=np.arange(2),
                masked_capacity=1,
            ),
            "assemble: masked has capacity 1 but 2 are needed; raise masked",
        ),
        (
            lambda: pack(DOCUMENTS, max_seqlen=3),
            "documents: max_seqlen must bound every document, is 3 but one has 4 tokens",
        ),
    ],
)
def test_refuses_contents_that_do_not_fit(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_ids_that_are_no_integers_and_a_mapping_of_something_else_are_named() -> None:
    with pytest.raises(
        TypeError, match="pack: ids must be integers, got float64; pass the ids that the tokenizer makes"
    ):
        pack([[1.5, 2.0]])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"documents and max_seqlen among them; .* or make one with pack\(\.\.\.\)"):
        PackedBatch({"ids": torch.zeros(1, 3)})
