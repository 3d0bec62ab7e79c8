"""Small corpora with sentences, words and several sources, and blocks over them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from unmask.data.compose import Block
from unmask.data.store.memory import MemoryStore
from unmask.data.stream import blocks


def make_store(lengths, *, source_of=None, seed=0, vocabulary=300):
    """A store with random words and sentences, whose sources are those of `source_of`."""
    rng = np.random.default_rng(seed)
    total = int(np.sum(lengths))
    ids = rng.integers(5, vocabulary, total).astype(np.uint16)
    sentences = rng.random(total) < 0.15
    words = (rng.random(total) < 0.7) | sentences
    return MemoryStore(
        ids,
        lengths,
        vocab_size=vocabulary,
        source_of=np.arange(len(lengths)) % 3 if source_of is None else source_of,
        word_starts=words,
        sentence_starts=sentences,
    )


def whole_block(store, max_length=32, seed=1, reading=0):
    """All documents of a store as one block."""
    order = np.argsort(store.source_of, kind="stable")
    order = order[store.lengths[order] > 0]
    return Block(
        documents=order,
        lengths=store.lengths[order].astype(np.int64),
        sources=store.source_of[order].astype(np.int64),
        readings=np.full(order.size, reading),
        ranks=np.arange(order.size),
        max_length=max_length,
        seed=seed,
        text=store,
    )


@pytest.fixture(name="make_store")
def _make_store():
    return make_store


@pytest.fixture(name="whole_block")
def _whole_block():
    return whole_block


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 32 documents, so that a small corpus has several."""
    monkeypatch.setattr(blocks, "GROUP_DOCUMENTS", 8)
    monkeypatch.setattr(blocks, "_MIN_GROUPS", 4)
    monkeypatch.setattr(blocks, "_MEAN_BATCHES", 1)


@pytest.fixture(scope="session")
def corpora():
    """Strategy of hypothesis: stores of up to 40 documents, some empty, some of one sentence, some far too long."""
    length = st.one_of(st.integers(0, 5), st.integers(6, 40), st.integers(60, 400))
    return st.builds(
        lambda lengths, seed, sources: make_store(
            lengths, seed=seed, source_of=np.random.default_rng(seed).integers(0, sources, len(lengths))
        ),
        st.lists(length, min_size=1, max_size=40),
        st.integers(0, 1000),
        st.integers(1, 3),
    )
