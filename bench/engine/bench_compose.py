"""Compose the sequences of a shuffle block on one core: 100,000 documents of 128 tokens, maximum length 512.

The documents of the one source have words with Zipf frequencies; three in ten words belong to the document's subject,
one of 500. The bench checks each composition: every token is there once (except for pairs), and no sequence is too
long. With bm25, neighbours in a sequence must have the same subject far more often than by chance. Goal for bm25: 2
minutes for all documents on two cores; a helper process composes, and the training loop keeps the other core.

A second group times how long a stream takes to its first micro-batch, at micro-batch 0 and 10**6.

A third group times the search inside bm25 beside the library `bm25s` (pip install bm25s; left out without it): for each
of 50 documents it finds the most similar one in a buffer of 2,048 of the 100,000. Both have the same words, without
stop words, and the same formula, and must give the same answers. `get_scores` is the library's fastest function,
`retrieve` the one that its manual shows.

    PYTHONPATH=engine:kernels python -m pytest bench/engine/bench_compose.py --import-mode=importlib
    PYTHONPATH=engine:kernels python -m pytest bench/engine/bench_compose.py --import-mode=importlib -k search
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bench.clock import PLAYBACK
from numpy.typing import NDArray

from unmask.batch import Cursor
from unmask.config import CompositionConfig, StreamConfig
from unmask.data.compose import Block, PairTask, Sequences, composer
from unmask.data.compose.bm25_index import K1, STOP_SHARE, B, TermIndex
from unmask.data.store.memory import MemoryStore
from unmask.data.stream import Stream

DOCUMENTS, TOKENS, MAX_LENGTH = 100_000, 128, 512
VOCAB_SIZE = 30_522
SUBJECTS = 500
GOAL_SECONDS = 120.0
BUFFER, QUERIES, SEARCH_ROUNDS = 2048, 50, 5
# the composition of each variant, and what its pairs are for
STRATEGIES: dict[str, tuple[CompositionConfig, PairTask]] = {
    "documents": (CompositionConfig(strategy="documents"), "nsp"),
    "doc_sentences": (CompositionConfig(strategy="doc_sentences"), "nsp"),
    "full_sentences": (CompositionConfig(strategy="full_sentences"), "nsp"),
    "mix": (CompositionConfig(strategy="mix"), "nsp"),
    "uni": (CompositionConfig(strategy="uni"), "nsp"),
    "best_fit": (CompositionConfig(strategy="best_fit"), "nsp"),
    "pairs, nsp": (CompositionConfig(strategy="pairs"), "nsp"),
    "pairs, sop": (CompositionConfig(strategy="pairs"), "sop"),
    "bm25, path": (CompositionConfig(strategy="bm25", bm25_walk="path"), "nsp"),
    "bm25, star": (CompositionConfig(strategy="bm25", bm25_walk="star"), "nsp"),
}
SEARCHERS = ("unmask", "bm25s get_scores", "bm25s retrieve")

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


def block(store: MemoryStore) -> Block:
    nothing = np.zeros(DOCUMENTS, dtype=np.int64)
    return Block(
        documents=np.arange(DOCUMENTS),
        lengths=store.lengths.astype(np.int64),
        sources=nothing,
        readings=nothing,
        ranks=np.arange(DOCUMENTS),
        max_length=MAX_LENGTH,
        seed=1,
        text=store,
    )


def check(variant: str, sequences: Sequences, subjects: Numbers) -> None:
    tokens, _, _ = sequences.costs(np.zeros(MAX_LENGTH + 1, dtype=np.int64))
    assert tokens.max() <= MAX_LENGTH, "no sequence may hold more than the limit"
    if not variant.startswith("pairs"):
        assert sequences.lengths.sum() == DOCUMENTS * TOKENS, "a block must hold every token"
        pieces = np.stack([sequences.owners, sequences.starts], axis=1)
        assert len(np.unique(pieces, axis=0)) == len(pieces), "no part of a document may come twice"
    if variant.startswith("bm25"):
        joined = ~sequences.begins[1:]
        same = subjects[sequences.owners[1:]] == subjects[sequences.owners[:-1]]
        assert same[joined].mean() > 100 / SUBJECTS, "neighbours must be alike"


@pytest.mark.parametrize("variant", STRATEGIES)
def bench_compose(benchmark: Any, store: MemoryStore, subjects: Numbers, variant: str) -> None:
    compose = composer(*STRATEGIES[variant])
    documents = block(store)
    benchmark.group = "compose"
    sequences = benchmark.pedantic(compose, args=(documents,), rounds=1 if variant.startswith("bm25") else 3)
    check(variant, sequences, subjects)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(
        {
            "case": f"{DOCUMENTS} documents of {TOKENS}, L={MAX_LENGTH}",
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
    """A stream that a checkpoint tells the place of `index` plans a single block, whatever the index."""
    config = StreamConfig(max_length=MAX_LENGTH, micro_batch_tokens=16_384, held_out_fraction=0.0)
    mix = CompositionConfig(strategy="mix")

    def fresh() -> tuple[tuple[Stream], dict[str, object]]:
        stream = Stream(store, config, store.ordinary_ids, composition=mix)
        if index:
            stream.remember(index, Cursor(999, 0, 7))
        return (stream,), {}

    benchmark.group = "seek"
    batch = benchmark.pedantic(lambda stream: next(stream.batches(index)), setup=fresh, rounds=5)
    assert batch.cursor == (Cursor(999, 0, 7) if index else Cursor(0, 0, 0))
    benchmark.extra_info.update({"case": f"micro-batch {index}", "variant": "stream"})


def searches(store: MemoryStore) -> dict[str, Callable[[int], list[int]]]:
    """Return functions that find the most similar document for each query of a round, after comparing their answers."""
    import bm25s

    documents = block(store)
    buffer = np.arange(DOCUMENTS // 2, DOCUMENTS // 2 + BUFFER)
    rounds = np.random.default_rng(2).permutation(buffer)[: SEARCH_ROUNDS * QUERIES].reshape(SEARCH_ROUNDS, QUERIES)

    index = TermIndex(documents, documents.documents, query_terms=300, group=BUFFER // 2)
    groups = np.unique(buffer // index.group)
    base = int(groups[0]) * index.group

    def ours(at: int) -> list[int]:
        return [
            best(index.scores(query, groups)[buffer[0] - base :][:BUFFER], query)
            for query in rounds[at % SEARCH_ROUNDS].tolist()
        ]

    words = store.ids.reshape(DOCUMENTS, TOKENS)
    ordered = np.sort(words, axis=1)
    first = np.concatenate([np.ones((DOCUMENTS, 1), dtype=bool), np.diff(ordered, axis=1) > 0], axis=1)
    often = np.bincount(ordered[first], minlength=VOCAB_SIZE) > STOP_SHARE * DOCUMENTS
    texts = [row[~often[row]].tolist() for row in words]
    library = bm25s.BM25(method="lucene", k1=K1, b=B)
    library.index((texts, {str(number): number for number in range(VOCAB_SIZE)}), show_progress=False)
    inside = np.zeros(DOCUMENTS, dtype=np.float32)
    inside[buffer] = 1

    def get_scores(at: int) -> list[int]:
        return [
            best(library.get_scores(texts[query], weight_mask=inside)[buffer[0] :][:BUFFER], query)
            for query in rounds[at % SEARCH_ROUNDS].tolist()
        ]

    def retrieve(at: int) -> list[int]:
        found = []
        for query in rounds[at % SEARCH_ROUNDS].tolist():
            inside[query] = 0
            found.append(library.retrieve([texts[query]], k=1, weight_mask=inside, show_progress=False).documents[0, 0])
            inside[query] = 1
        return found

    def best(scores: NDArray[np.floating], query: int) -> int:
        scores[query - buffer[0]] = -1
        return int(buffer[0] + np.argmax(scores))

    calls = dict(zip(SEARCHERS, (ours, get_scores, retrieve), strict=True))
    answers = {name: np.array([call(at) for at in range(SEARCH_ROUNDS)]) for name, call in calls.items()}
    for name, found in answers.items():
        # scores of 32 bits have other ties than integer scores
        same = (found == answers["unmask"]).mean()
        assert same >= 0.98, f"bench_compose: unmask and {name} agree about {same:.0%} of the queries only"
    return calls


@pytest.mark.benchmark(timer=PLAYBACK)
@pytest.mark.parametrize("variant", SEARCHERS)
def bench_search(benchmark: Any, side_by_side: Any, store: MemoryStore, variant: str) -> None:
    pytest.importorskip("bm25s")
    side_by_side.run(
        benchmark,
        group="compose: search",
        case=f"{QUERIES} queries, {BUFFER} of {DOCUMENTS} documents",
        variant=variant,
        enter=lambda: searches(store),
        rounds=SEARCH_ROUNDS,
        extra={"baseline": SEARCHERS[1], "cores": 1},
    )
