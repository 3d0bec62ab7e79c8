"""Capacities follow from the text where they are not given, and impossible ones are refused."""

import re
from dataclasses import fields
from itertools import islice

import numpy as np
import pytest

from unmask.config import RunConfig
from unmask.data.store.memory import MemoryStore
from unmask.data.stream import Stream, StreamConfig
from unmask.errors import ConfigError


def capacities(lengths=(100,) * 50, **changes):
    config = StreamConfig(**({"max_length": 32} | changes))
    counts = np.maximum(1, np.arange(config.max_length + 1) * 3 // 20)
    return config.capacities(np.array(lengths), counts)


@pytest.mark.parametrize("max_length", [3, 16, 128, 512, 8192])
def test_a_micro_batch_is_32_of_the_longest_piece(max_length):
    assert capacities(max_length=max_length).tokens == 32 * max_length


@pytest.mark.parametrize("mean", [8, 12, 20, 60, 300])
@pytest.mark.parametrize("spread", ["geometric", "fixed"])
def test_micro_batches_are_full_whatever_the_length_of_the_documents(mean, spread):
    documents = 40 * 8192 // mean
    lengths = np.full(documents, mean)
    if spread == "geometric":
        lengths = np.random.default_rng(mean).geometric(1 / mean, documents)
    store = MemoryStore.generated(lengths, vocab_size=100)
    stream = Stream(store, StreamConfig(max_length=128, tokens=8192), store.ordinary_ids)
    batches = list(islice(stream.batches(), 20))
    assert sum(batch.real_tokens for batch in batches) >= 0.97 * 20 * 8192
    # and the slots are not many more than those that are used
    documents = np.mean([(batch.documents.cu_seqlens.diff() > 0).sum() for batch in batches])
    masked = np.mean([(batch.labels >= 0).sum() for batch in batches])
    assert stream.capacities.sequences <= 1.15 * documents + 32
    assert stream.capacities.masked <= 1.06 * masked + 32


def test_both_splits_have_the_same_shapes():
    store = MemoryStore.generated(np.arange(1, 400), vocab_size=100)
    config = StreamConfig(max_length=32, tokens=256, held_out_fraction=0.3)
    train, held_out = (Stream(store, config, store.ordinary_ids, split=split) for split in ("train", "held_out"))
    assert train.capacities == held_out.capacities


def test_what_is_given_is_kept():
    room = capacities(tokens=100, sequences=9, masked=7)
    assert (room.max_length, room.tokens, room.sequences, room.masked) == (32, 100, 9, 7)


REFUSED = [
    ({"max_length": 2}, "data.max_length must be at least 3, .* got 2"),
    ({"tokens": 31}, r"train.micro_batch_tokens must be at least data.max_length \(32\) to hold one piece, got 31"),
    ({"tokens": 128, "sequences": 4}, "train.max_documents must be at least 5, .* got 4"),
    ({"masked": 3}, r"3 masked .* one piece of data.max_length \(32\), which has 4 at data.mask_rate 0.15"),
    ({"held_out_fraction": 1.0}, r"data.held_out must lie in \[0, 1\), got 1.0"),
    ({"held_out_fraction": -0.1}, r"data.held_out must lie in \[0, 1\), got -0.1"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refuses_what_cannot_hold_a_piece_in_words_of_the_configuration(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        capacities(**changes)
    named = re.findall(r"\b(data|train)\.(\w+)", str(caught.value))
    assert named
    for group, field in named:
        assert field in {known.name for known in fields(getattr(RunConfig(), group))}
