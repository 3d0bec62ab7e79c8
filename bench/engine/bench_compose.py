"""Composing sequences of a window, on one core: 100,000 documents of 128 tokens in one source, cut to 512.

The documents have words of a Zipf law, three in ten of them from one of 500 subjects. The gate checks each table first:
every token once (pairs apart), no sequence over the limit; with bm25, neighbours in a sequence share their subject far
more often than by chance. Goal for bm25: 2 minutes for all documents, on two cores; a helper process composes, so
that the training loop keeps the other core. A second group finds the first micro-batch at 0 and at 10**6.

    PYTHONPATH=engine:kernels python -m pytest bench/engine/bench_compose.py --import-mode=importlib
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unmask.batch import Cursor
from unmask.data.compose import Composition, SequenceTable, Window, composer
from unmask.data.memory_store import MemoryStore
from unmask.data.stream import Stream, StreamConfig

DOCUMENTS, TOKENS, LONGEST = 100_000, 128, 512
VOCAB_SIZE = 30_522
SUBJECTS = 500
GOAL_SECONDS = 120.0
STRATEGIES: dict[str, dict[str, str]] = {
    "documents": {},
    "doc_sentences": {},
    "full_sentences": {},
    "mix": {},
    "uni": {},
    "best_fit": {},
    "pairs, nsp": {"pair_task": "nsp"},
    "pairs, sop": {"pair_task": "sop"},
    "bm25, path": {"walk": "path"},
    "bm25, star": {"walk": "star"},
}

Numbers = NDArray[np.int64]


@pytest.fixture(scope="module")
def subjects() -> Numbers:
    return np.random.default_rng(1).integers(0, SUBJECTS, DOCUMENTS)


@pytest.fixture(scope="module")
def store(subjects: Numbers) -> MemoryStore:
    rng = np.random.default_rng(0)
    shape = (DOCUMENTS, TOKENS)
    common = np.exp(rng.random(shape) * np.log(VOCAB_SIZE - 5)).astype(np.int64)
    own = 500 + (subjects[:, None] * 53 + rng.integers(0, 50, shape)) % (VOCAB_SIZE - 600)
    ids = (5 + np.where(rng.random(shape) < 0.3, own, common - 1)).astype(np.uint16)
    sentences = rng.random(DOCUMENTS * TOKENS) < 1 / 25
    lengths = np.full(DOCUMENTS, TOKENS)
    return MemoryStore(ids.ravel(), lengths, vocab_size=VOCAB_SIZE, sentence_starts=sentences)


def window(store: MemoryStore) -> Window:
    nothing = np.zeros(DOCUMENTS, dtype=np.int64)
    return Window(
        documents=np.arange(DOCUMENTS),
        lengths=store.lengths.astype(np.int64),
        sources=nothing,
        turns=nothing,
        ranks=np.arange(DOCUMENTS),
        longest=LONGEST,
        seed=1,
        text=store,
    )


def check(variant: str, table: SequenceTable, subjects: Numbers) -> None:
    tokens, _, _ = table.costs(np.zeros(LONGEST + 1, dtype=np.int64))
    assert tokens.max() <= LONGEST, "no sequence may hold more than the limit"
    if not variant.startswith("pairs"):
        assert table.lengths.sum() == DOCUMENTS * TOKENS, "a window must hold every token"
        pieces = np.stack([table.owners, table.starts], axis=1)
        assert len(np.unique(pieces, axis=0)) == len(pieces), "no stretch of a document may come twice"
    if variant.startswith("bm25"):
        joined = ~table.begins[1:]
        same = subjects[table.owners[1:]] == subjects[table.owners[:-1]]
        assert same[joined].mean() > 100 / SUBJECTS, "neighbours must be alike"


@pytest.mark.parametrize("variant", STRATEGIES)
def bench_compose(benchmark: Any, store: MemoryStore, subjects: Numbers, variant: str) -> None:
    compose = composer(Composition(strategy=variant.split(",")[0], **STRATEGIES[variant]))  # type: ignore[arg-type]
    documents = window(store)
    benchmark.group = "compose"
    table = benchmark.pedantic(compose, args=(documents,), rounds=1 if variant.startswith("bm25") else 3)
    check(variant, table, subjects)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(
        {
            "case": f"{DOCUMENTS} documents of {TOKENS}, L={LONGEST}",
            "variant": variant,
            "tokens_per_second": DOCUMENTS * TOKENS / seconds,
            "documents_per_second": DOCUMENTS / seconds,
            "cores": 1,
        }
    )
    if variant.startswith("bm25"):
        benchmark.extra_info["goal_seconds"] = GOAL_SECONDS


@pytest.mark.parametrize("index", [0, 10**6])
def bench_seek(benchmark: Any, store: MemoryStore, index: int) -> None:
    """A stream that a checkpoint told where `index` lies plans one window to go on there, whatever the index."""
    config = StreamConfig(
        longest=LONGEST, tokens=16_384, held_out_fraction=0.0, composition=Composition(strategy="mix")
    )

    def fresh() -> tuple[tuple[Stream], dict[str, object]]:
        stream = Stream(store, config, store.ordinary_ids)
        if index:
            stream.remember(index, Cursor(999, 0, 7))
        return (stream,), {}

    benchmark.group = "seek"
    batch = benchmark.pedantic(lambda stream: next(stream.batches(index)), setup=fresh, rounds=5)
    assert batch.cursor == (Cursor(999, 0, 7) if index else Cursor(0, 0, 0))
    benchmark.extra_info.update({"case": f"micro-batch {index}", "variant": "stream"})
