"""The random stream: published answers, and what dropout needs of its statistics."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels import philox, philox_cpp, philox_numpy
from unmask_kernels.testing import contracts

BUILT = pytest.mark.skipif(
    bool(philox_cpp.fault()), reason=f"{philox_cpp.fault()}; pip install with UNMASK_BUILD_CPU=1"
)


@pytest.fixture(
    autouse=True, params=[pytest.param("vectors", marks=BUILT), pytest.param("words", marks=BUILT), "numpy"]
)
def drawn_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Draw by vectors of the extension in C++, by its words of 32 bits, or by NumPy."""
    way: str = request.param
    monkeypatch.setattr(philox, "on_cpu", lambda: philox_numpy if way == "numpy" else philox_cpp)
    if way == "numpy":
        yield way
        return
    module = importlib.import_module("unmask_kernels._cpu")
    module.use_vectors(way == "vectors")
    yield way
    module.use_vectors(True)


# Counter, key and result of philox4x32-10 from Random123's known-answer tests (Salmon et al. 2011).
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN, ids=["zeros", "ones", "pi"])
def test_gives_the_published_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    words = philox.philox_4x32(*(torch.tensor([word]) for word in (*counter, *key)))
    assert [int(word) for word in words] == expected


# The first outputs of SplitMix64 from seed 0, of Steele et al.'s generator as it is published everywhere.
SPLITMIX = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]


def test_keys_are_outputs_of_splitmix64() -> None:
    published = torch.tensor([word - (word >> 63 << 64) for word in SPLITMIX])
    assert torch.equal(philox.row_keys(torch.zeros(4, dtype=torch.int64), torch.arange(4)), published)
    # those of a network come from a seed that is scattered first, so that neighbouring seeds share none
    seed = torch.tensor(41)
    index = torch.arange(4)
    assert torch.equal(philox.dropout_keys(seed, 2, 2).flatten(), philox.row_keys(philox.mix64(seed), index))
    assert torch.equal(philox.dropout_keys(torch.tensor(0), 2, 2).flatten(), published)


def test_an_attention_probability_has_the_documented_address() -> None:
    key, names = torch.tensor(-3), torch.tensor([0x0123456789ABCDEF, -7])
    rows, columns, heads = range(65533, 65536), 21, 3
    keep = philox.keep_scores(key, names, heads, rows, columns, 0.4)
    assert keep.shape == (2, 3, 3, 21)
    for document, head, row, column in [(0, 0, 0, 0), (0, 2, 1, 8), (1, 1, 2, 20), (1, 2, 0, 13), (0, 1, 2, 7)]:
        name = int(names[document])
        counter = [(rows[row] << 16) | (column // 8), head, name & 0xFFFFFFFF, (name >> 32) & 0xFFFFFFFF]
        words = philox.philox_4x32(*(torch.tensor(word) for word in (*counter, -3 & 0xFFFFFFFF, 0xFFFFFFFF)))
        lane = (int(words[column % 8 // 2]) >> (16 * (column % 2))) & 0xFFFF
        assert bool(keep[document, head, row, column]) == (lane >= round(65536 * 0.4))


def test_the_bound_itself_is_kept() -> None:
    # of 2**16 lanes some equal a bound: with p a step of lanes, kept are those at it and above
    words = torch.stack(
        philox.philox_4x32(*(torch.arange(4000) if i == 0 else torch.zeros(1).long() for i in range(6)))
    )
    lane = int(words[0, 17] & 0xFFFF)
    keep = philox.keep_rows(torch.tensor(0), torch.tensor([0]), 8 * 18, lane / 65536)
    above = philox.keep_rows(torch.tensor(0), torch.tensor([0]), 8 * 18, (lane + 1) / 65536)
    assert (bool(keep[0, 8 * 17]), bool(above[0, 8 * 17])) == (True, False)


def test_lanes_are_the_halves_of_the_words_low_half_first() -> None:
    key, row = torch.tensor(-3), torch.tensor([0x0123456789ABCDEF])
    words = philox.philox_4x32(
        torch.tensor([0, 1]),
        torch.zeros(2, dtype=torch.int64),
        row & 0xFFFFFFFF,
        row >> 32,
        key & 0xFFFFFFFF,
        (key >> 32) & 0xFFFFFFFF,
    )
    lanes = torch.stack([half for word in words for half in (word & 0xFFFF, word >> 16)], dim=1).flatten()
    for p in (0.1, 0.5, 0.9):
        kept = philox.keep_rows(key, row, 13, p)
        assert kept.tolist() == [(lanes[:13] >= round(65536 * p)).tolist()]


def test_keeps_the_asked_share_and_rows_are_independent() -> None:
    keys = philox.row_keys(torch.full((512,), 17), torch.arange(512))
    keep = philox.keep_rows(torch.tensor(5), keys, 768, 0.1).double()
    # 393,216 draws: the standard deviation of the mean is 0.00048; of a column's mean 0.0133.
    assert abs(float(keep.mean()) - 0.9) < 5 * 0.00048
    assert float((keep.mean(dim=0) - 0.9).abs().max()) < 5.5 * 0.0133
    centred = keep - keep.mean()
    neighbours = (centred[1:] * centred[:-1]).mean() / centred.square().mean()
    columns = (centred[:, 1:] * centred[:, :-1]).mean() / centred.square().mean()
    assert abs(float(neighbours)) < 0.01
    assert abs(float(columns)) < 0.01


def test_the_mask_of_a_row_does_not_depend_on_its_neighbours() -> None:
    key, rows = torch.tensor(99), philox.mix64(torch.arange(300))
    whole = philox.keep_rows(key, rows, 1000, 0.3)
    assert torch.equal(philox.keep_rows(key, rows[123:124], 1000, 0.3)[0], whole[123])
    assert torch.equal(philox.keep_rows(key, rows, 40, 0.3), whole[:, :40])


@pytest.mark.parametrize("p", [2**-20, 2**-16, 0.1, 0.5, 0.9, 1 - 2**-16, 1 - 2**-20])
def test_an_element_is_kept_when_its_half_of_a_word_reaches_the_threshold(p: float) -> None:
    key, rows = torch.tensor(-8), philox.mix64(torch.arange(400))
    group = torch.arange(12)
    words = philox.philox_4x32(
        group, torch.zeros(1).long(), rows[:, None] & 0xFFFFFFFF, rows[:, None] >> 32 & 0xFFFFFFFF,
        key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF,
    )  # fmt: skip
    halves = torch.stack([half for word in words for half in (word & 0xFFFF, word >> 16)], dim=-1).flatten(1)
    assert torch.equal(philox.keep_rows(key, rows, 96, p), halves >= philox.threshold(p))


def test_sites_layers_and_seeds_have_keys_of_their_own() -> None:
    keys = torch.stack([philox.dropout_keys(torch.tensor(seed), 24, 4) for seed in range(50)])
    assert len(keys.unique()) == 50 * 24 * 4


def test_row_keys_do_not_collide_between_documents() -> None:
    keys = philox.row_keys(torch.arange(1000)[:, None], torch.arange(512)[None, :])
    assert len(keys.unique()) == keys.numel()


@pytest.mark.parametrize(("p", "bound"), [(0.0, 0), (0.1, 6554), (0.5, 32768), (1 - 2**-16, 65535)])
def test_threshold_is_the_probability_in_16_bits(p: float, bound: int) -> None:
    assert philox.threshold(p) == bound


@pytest.mark.parametrize("at_a_time", [1, 24, 1 << 20])
def test_any_number_of_counters_at_a_time_gives_the_same_bits(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    key, keys = torch.tensor(7), philox.mix64(torch.arange(3))
    scores, rows = philox.keep_scores(key, keys, 2, range(3, 9), 21, 0.4), philox.keep_rows(key, keys, 21, 0.4)
    counters: list[int] = []
    draw = philox.philox_4x32
    monkeypatch.setattr(philox, "philox_4x32", lambda *words: counters.append(words[0].numel()) or draw(*words))
    monkeypatch.setattr(philox, "_COUNTERS", at_a_time)
    monkeypatch.setattr(philox_numpy, "_BLOCK", at_a_time)
    assert torch.equal(philox.keep_scores(key, keys, 2, range(3, 9), 21, 0.4), scores)
    assert torch.equal(philox.keep_rows(key, keys, 21, 0.4), rows)
    assert counters == [], "a CPU does not draw with PyTorch"
    assert torch.equal(philox._scores_by_torch(key, keys, 2, 3, 9, 21, 0.4), scores)
    assert torch.equal(philox._rows_by_torch(key, keys, 21, 0.4), rows)
    assert max(counters) <= max(at_a_time, 2 * 3), "a row of two heads is drawn at once"
    assert torch.equal(philox.keep_scores(key, keys[1:2], 2, range(9), 21, 0.4)[0, :, 3:], scores[1])


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_that_share_a_mask_draw_what_one_draws(
    threads: int, drawn_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, keys = torch.tensor(-7), philox.mix64(torch.arange(30000))
    few, many = (philox.keep_scores(key, keys[:count], 3, range(5, 64), 70, 0.4) for count in (1, 400))
    rows = philox.keep_rows(key, keys, 24, 0.4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(philox_numpy, "_WORTH_A_THREAD", 100)
    workers: list[int] = []
    pool = philox_numpy.ThreadPoolExecutor
    monkeypatch.setattr(philox_numpy, "ThreadPoolExecutor", lambda count: workers.append(count) or pool(count))
    assert torch.equal(philox.keep_scores(key, keys[:1], 3, range(5, 64), 70, 0.4), few)
    assert torch.equal(philox.keep_scores(key, keys[:400], 3, range(5, 64), 70, 0.4), many)
    assert torch.equal(philox.keep_rows(key, keys, 24, 0.4), rows)
    assert workers == ([threads] * 3 if drawn_by == "numpy" else [])


@pytest.mark.parametrize("columns", [1, 3, 8, 20, 33, 70, 257])
def test_rows_of_any_width_are_those_of_pytorch(columns: int) -> None:
    key, keys = torch.tensor(-7), philox.mix64(torch.arange(19))
    scores = philox._scores_by_torch(key, keys, 3, 5, 12, columns, 0.4)
    assert torch.equal(philox.keep_scores(key, keys, 3, range(5, 12), columns, 0.4), scores)
    assert torch.equal(philox.keep_rows(key, keys, columns, 0.4), philox._rows_by_torch(key, keys, columns, 0.4))


def test_keys_of_another_dtype_and_stride_are_read_as_numbers() -> None:
    key, keys = torch.tensor(7), torch.arange(40)
    expected = philox.keep_rows(key, keys[::2], 21, 0.4)
    assert torch.equal(philox.keep_rows(key, keys.int()[::2], 21, 0.4), expected)
    scores = philox.keep_scores(key, keys[:3], 2, range(9), 21, 0.4)
    assert torch.equal(philox.keep_scores(key, keys[:3].int(), 2, range(9), 21, 0.4), scores)


def test_the_extension_draws_where_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert philox.on_cpu() is (philox_numpy if philox_cpp.fault() else philox_cpp)
    monkeypatch.setattr(philox_cpp, "fault", lambda: "unmask_kernels._cpu is not built")
    assert philox.on_cpu() is philox_numpy


def test_a_gpu_decides_many_documents_in_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    draw = philox.philox_4x32
    monkeypatch.setattr(philox, "philox_4x32", lambda *words: calls.append(1) or draw(*words))
    philox._scores_by_torch(torch.tensor(7), torch.arange(50), 2, 0, 64, 64, 0.4)
    assert len(calls) == 1


@pytest.mark.parametrize(("rows", "columns"), [(0, 21), (5, 0), (0, 0)])
def test_nothing_is_decided_for_no_rows_or_columns(rows: int, columns: int) -> None:
    key, keys = torch.tensor(7), philox.mix64(torch.arange(5))
    assert philox.keep_rows(key, keys[:rows], columns, 0.4).shape == (rows, columns)
    assert philox.keep_scores(key, keys, 2, range(rows), columns, 0.4).shape == (5, 2, rows, columns)
    assert philox.keep_scores(key, keys[:0], 2, range(3), 21, 0.4).shape == (0, 2, 3, 21)


NAMES = philox.mix64(torch.arange(50))
WORDS = (torch.arange(6)[:, None], *(torch.arange(40) + (3 << 30) for _ in range(3)), *torch.tensor([[7], [1 << 31]]))
OPERATIONS: dict[str, tuple[Any, ...]] = {
    "philox_4x32": WORDS,
    "mix64": (torch.arange(40),),
    "row_keys": (NAMES, torch.arange(50)),
    "dropout_keys": (torch.tensor(2**62 + 12345), 3, 4),
    "keep_rows": (torch.tensor(7), NAMES, 21, 0.4),
    "keep_scores": (torch.tensor(7), NAMES[:3], 2, 3, 9, 21, 0.4),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_registered_operation_is_sound(name: str) -> None:
    contracts.opcheck(getattr(torch.ops.unmask, name).default, OPERATIONS[name])


def _random_stream(seed: Tensor, documents: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
    """All that a training step draws, from counters that the compiler makes itself."""
    sites = philox.dropout_keys(seed, 3, 4)
    rows = philox.row_keys(documents, positions)
    low, high = documents & 0xFFFFFFFF, (documents >> 32) & 0xFFFFFFFF
    words = philox.philox_4x32(torch.arange(40), torch.zeros_like(low), low, high, seed & 0xFFFFFFFF, seed * 0)
    kept = philox.keep_rows(sites[1, 2], rows, 96, 0.1)
    return sites, rows, kept, philox.keep_scores(sites[2, 0], documents[:3], 2, range(3, 9), 21, 0.4), *words


@pytest.mark.parametrize("vector_bits", [None, 256], ids=["vectors of this CPU", "vectors of 256 bits"])
def test_a_compiled_graph_draws_what_an_eager_one_draws(vector_bits: int | None) -> None:
    import torch._inductor.config

    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.simdlen": vector_bits, "force_disable_caches": True}):
        compiled = torch.compile(_random_stream, fullgraph=True)
        for seed in (0, -1, 2**62 + 12345):
            arguments = torch.tensor(seed), philox.mix64(torch.arange(40)), torch.arange(40)
            for ours, eager in zip(compiled(*arguments), _random_stream(*arguments), strict=True):
                assert torch.equal(ours, eager)
