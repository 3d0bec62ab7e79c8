"""Capacities follow from the text where they are not given, and impossible ones are refused."""

from itertools import islice

import numpy as np
import pytest

from streams import make_stream
from unmask.config import CompositionConfig, StreamConfig
from unmask.data.store.memory import MemoryStore
from unmask.data.stream.capacities import capacities
from unmask.errors import ConfigError, SettingTypeError


def room(lengths=(100,) * 50, *, masked=None, strategy="documents", **changes):
    """The capacities of a micro-batch of pieces with a masked token in about seven."""
    config = StreamConfig(**({"max_length": 32, "micro_batch_tokens": 1024} | changes))
    counts = np.maximum(1, np.arange(config.max_length + 1) * 3 // 20)
    return capacities(config, CompositionConfig(strategy=strategy), np.array(lengths), counts, masked=masked)


@pytest.mark.parametrize("max_length", [3, 16, 128, 512, 8192])
def test_a_micro_batch_of_one_piece_or_of_many_holds_the_longest(max_length):
    for tokens in (max_length, 32 * max_length):
        found = room(max_length=max_length, micro_batch_tokens=tokens)
        assert (found.max_length, found.tokens) == (max_length, tokens)
        assert found.sequences >= 1 + (tokens - 3) // max_length
        assert found.masked >= max(1, max_length * 3 // 20)


@pytest.mark.parametrize("mean", [8, 12, 20, 60, 300])
@pytest.mark.parametrize("spread", ["geometric", "fixed"])
def test_micro_batches_are_full_whatever_the_length_of_the_documents(mean, spread):
    documents = 40 * 8192 // mean
    lengths = np.full(documents, mean)
    if spread == "geometric":
        lengths = np.random.default_rng(mean).geometric(1 / mean, documents)
    store = MemoryStore.generated(lengths, vocab_size=100)
    stream = make_stream(store, max_length=128, micro_batch_tokens=8192)
    batches = list(islice(stream.batches(), 20))
    assert sum(batch.real_tokens for batch in batches) >= 0.97 * 20 * 8192
    # and the slots are not many more than those that are used
    documents = np.mean([(batch.documents.cu_seqlens.diff() > 0).sum() for batch in batches])
    masked = np.mean([(batch.labels >= 0).sum() for batch in batches])
    assert stream.capacities.sequences <= 1.15 * documents + 32
    assert stream.capacities.masked <= 1.06 * masked + 32


def test_both_splits_have_the_same_shapes():
    store = MemoryStore.generated(np.arange(1, 400), vocab_size=100)
    train, held_out = (
        make_stream(store, max_length=32, micro_batch_tokens=256, held_out_fraction=0.3, split=split)
        for split in ("train", "held_out")
    )
    assert train.capacities == held_out.capacities


def test_what_is_given_is_kept():
    found = room(micro_batch_tokens=100, max_documents=9, masked=7)
    assert (found.max_length, found.tokens, found.sequences, found.masked) == (32, 100, 9, 7)


REFUSED = [
    ({"max_length": 2}, "StreamConfig: max_length must be at least 3, got 2"),
    ({"micro_batch_tokens": 0}, "StreamConfig: micro_batch_tokens must be at least 1, got 0"),
    ({"max_documents": 0}, "StreamConfig: max_documents must be at least 1 and at most 2147483647, got 0"),
    ({"workers": -1}, "StreamConfig: workers must be at least 0 and at most 256, got -1"),
    ({"held_out_fraction": 0.51}, "StreamConfig: held_out_fraction must be at least 0 and at most 0.5, got 0.51"),
    ({"held_out_fraction": -0.1}, "StreamConfig: held_out_fraction must be at least 0 and at most 0.5, got -0.1"),
    (
        {"micro_batch_tokens": 31},
        r"stream: micro_batch_tokens must be at least max_length \(32\) to hold one piece, got 31",
    ),
    ({"micro_batch_tokens": 128, "max_documents": 4}, "stream: max_documents must be at least 5, .* got 4"),
    ({"masked": 3}, r"stream: 3 masked tokens .* one piece of max_length \(32\), which has 4; give at least that many"),
    ({"strategy": "pairs", "max_length": 4}, "stream: max_length must be at least 5 for pairs, got 4"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_hold_a_piece_is_refused_under_the_name_of_the_setting(changes, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        room(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 32.5}, r"StreamConfig: max_length must be a whole number, got 32.5 \(float\)"),
        ({"max_documents": "9"}, r"StreamConfig: max_documents must be a whole number, got '9' \(str\)"),
        ({"held_out_fraction": None}, "StreamConfig: held_out_fraction must be a number, got nothing"),
    ],
)
def test_a_value_of_another_type_is_refused(changes, message):
    with pytest.raises(SettingTypeError, match=f"^{message}$"):
        room(**changes)
