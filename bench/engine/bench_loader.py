"""The loader alone, in one process on one core: planning, gathering, masking, packing into tensors.

A round is an epoch over a generated corpus of one shuffle block, so its time includes planning. The bench first checks
an epoch: every token is there once, and mask counts are exact. Goal: 2 million tokens/s on one core, which is more than
a GPU consumes; half a million where whole words or similar words are masked. Two tokens in three of that corpus begin a
word.

    PYTHONPATH=engine:kernels python -m pytest bench/engine/bench_loader.py --import-mode=importlib
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise, takewhile
from typing import Any

import numpy as np
import pytest
import torch
from bench.lengths import DISTRIBUTIONS

from unmask.batch import PackedBatch
from unmask.config import MaskingConfig, StreamConfig
from unmask.data.masking import Masker
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.store.memory import MemoryStore
from unmask.data.stream import Stream
from unmask.data.stream.loader import Loader

VOCAB_SIZE = 30_522
DOCUMENTS = 8192
MAX_LENGTH = 512
ROUNDS = 5
GOAL = 2e6
TOKENS = MaskingConfig(strategy="token")
GOAL_WORDS = 0.5e6


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    lengths = np.array(DISTRIBUTIONS["lognormal-512"].draw(DOCUMENTS)) - 2
    return MemoryStore.generated(lengths, vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def words_store() -> MemoryStore:
    """The same lengths in words of 1.5 tokens; few words are frequent, as in text."""
    lengths = np.array(DISTRIBUTIONS["lognormal-512"].draw(DOCUMENTS)) - 2
    rng = np.random.default_rng(0)
    starts = rng.random(lengths.sum()) < 1 / 1.5
    ranks = np.exp(rng.random(lengths.sum()) * np.log(20_000)).astype(np.int64)
    ids = np.where(starts, 4 + ranks, 20_005 + ranks % 10_000).astype(np.uint16)
    return MemoryStore(ids, lengths, vocab_size=VOCAB_SIZE, word_starts=starts)


def similar_words(store: MemoryStore) -> SimilarWords:
    """Return a table of the words of one or two tokens, which are most of the text."""
    bounds = np.append(np.flatnonzero(store.word_starts), store.ids.size)
    short = [tuple(store.ids[a:b].tolist()) for a, b in pairwise(bounds.tolist()) if b - a <= 2]
    return SimilarWords([(word, tuple(token + 1 for token in word)) for word in sorted(set(short))])


@pytest.fixture
def _one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    yield
    if cores:
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


def one_epoch(
    store: MemoryStore, tokens: int, masking: MaskingConfig = TOKENS, table: SimilarWords | None = None
) -> Iterator[PackedBatch]:
    config = StreamConfig(max_length=MAX_LENGTH, micro_batch_tokens=tokens, held_out_fraction=0.0)
    loader = Loader(Stream(store, config, store.ordinary_ids, masking=masking, similar_words=table), workers=0)
    return takewhile(lambda batch: batch.cursor is not None and batch.cursor.epoch == 0, loader)


def check(store: MemoryStore, tokens: int) -> float:
    """Check an epoch, and return its fill."""
    counts = Masker(
        TOKENS,
        seed=0,
        special_ids=list(store.special_ids.values()),
        ordinary_ids=store.ordinary_ids,
        mask_id=store.special_ids["mask"],
        vocab_size=VOCAB_SIZE,
    ).counts(store.lengths + 2)
    seen = np.zeros(VOCAB_SIZE, dtype=np.int64)
    batches = masked = 0
    for batch in one_epoch(store, tokens):
        assert batch.masked is not None
        assert batch.labels is not None
        used = batch.labels >= 0
        original = batch.ids[: batch.real_tokens].clone()
        original[batch.masked[used]] = batch.labels[used]
        seen += np.bincount(original.numpy(), minlength=VOCAB_SIZE)
        masked += int(used.sum())
        batches += 1
    expected = np.bincount(store.ids, minlength=VOCAB_SIZE)
    expected[[store.special_ids["cls"], store.special_ids["sep"]]] = DOCUMENTS
    assert np.array_equal(seen, expected), "an epoch must hold every token exactly once"
    assert masked == counts.sum(), "the number of masked tokens must follow the rule"
    return float(seen.sum() / batches / tokens)


@pytest.mark.parametrize("tokens", [4096, 16_384, 65_536])
@pytest.mark.usefixtures("_one_core")
def bench_loader(benchmark: Any, store: MemoryStore, tokens: int) -> None:
    fill = check(store, tokens)
    time_epochs(benchmark, store, lambda: one_epoch(store, tokens))
    benchmark.extra_info |= {"case": f"lognormal-512, T={tokens}", "goal_tokens_per_second": GOAL, "fill": fill}


@pytest.mark.parametrize("strategy", ["whole_word", "mac"])
@pytest.mark.usefixtures("_one_core")
def bench_loader_of_words(benchmark: Any, words_store: MemoryStore, strategy: str) -> None:
    tokens = 16_384
    masking = MaskingConfig(strategy=strategy)  # type: ignore[arg-type]
    table = similar_words(words_store) if strategy == "mac" else None
    check_words(words_store, tokens, masking, table)
    time_epochs(benchmark, words_store, lambda: one_epoch(words_store, tokens, masking, table))
    benchmark.extra_info |= {"case": f"lognormal-512, T={tokens}, {strategy}", "goal_tokens_per_second": GOAL_WORDS}


def check_words(store: MemoryStore, tokens: int, masking: MaskingConfig, table: SimilarWords | None) -> None:
    """Fail unless an epoch masks whole words, about as many tokens as it should."""
    masked = real = 0
    for batch in one_epoch(store, tokens, masking, table):
        assert batch.masked is not None
        assert batch.labels is not None
        assert batch.word_starts is not None
        used = batch.labels >= 0
        chosen = np.zeros(tokens, dtype=np.int64)
        chosen[batch.masked[used].numpy()] = 1
        word = np.cumsum(batch.word_starts.numpy())
        shares = np.bincount(word, weights=chosen) / np.maximum(np.bincount(word), 1)
        assert np.isin(shares, [0, 1]).all(), "words must stay whole"
        masked, real = masked + int(used.sum()), real + batch.real_tokens
    assert 0.13 < masked / real < 0.16, "about 15 % of the tokens must be masked"


def time_epochs(benchmark: Any, store: MemoryStore, begin: Callable[[], Iterator[PackedBatch]]) -> None:
    """Measure whole epochs."""
    real = int(store.lengths.sum()) + 2 * DOCUMENTS

    processor_seconds: list[float] = []

    def fresh() -> tuple[tuple[Iterator[PackedBatch]], dict[str, object]]:
        return (begin(),), {}

    def consume(batches: Iterator[PackedBatch]) -> int:
        began = time.process_time()
        total = sum(batch.real_tokens for batch in batches)
        processor_seconds.append(time.process_time() - began)
        return total

    benchmark.group = "loader"
    total = benchmark.pedantic(consume, setup=fresh, rounds=ROUNDS, warmup_rounds=1)
    assert total == real
    benchmark.extra_info.update(
        {
            "variant": "loader",
            "tokens_per_second": real / benchmark.stats.stats.median,
            # what a core that nobody else uses would reach
            "tokens_per_processor_second": real / float(np.median(processor_seconds)),
            "cores": 1,
        }
    )
