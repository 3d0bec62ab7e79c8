"""The loss of a model that knows only token frequencies."""

from fractions import Fraction
from math import log
from types import ModuleType

import numpy as np
import pytest

from unmask.config import CompositionConfig
from unmask.data.documents import LengthCounts, Members, Selection
from unmask.data.store.memory import MemoryStore
from unmask.data.stream.blocks import Source, sources_of
from unmask.train.unigram import Unigram, baseline, measure_unigram


def store_of(documents: list[list[int]], **of: object) -> MemoryStore:
    ids = np.concatenate([np.array(document, dtype=np.uint16) for document in documents])
    return MemoryStore(ids, [len(document) for document in documents], vocab_size=8, **of)  # type: ignore[arg-type]


# ids 5, 6 and 7 are ordinary, 1 is [UNK]
STORE = store_of([[5, 5, 5, 6, 1], [6, 5], [7, 7, 1, 5]])


def source(*documents: int, weight: int = 1, store: MemoryStore = STORE) -> Source:
    numbers = np.array(documents, dtype=np.int64)
    members = Members.of(np.arange(store.lengths.size))
    return Source(
        documents=Selection(members, numbers, all_but=False),
        lengths=LengthCounts.of(store.lengths[numbers]),
        weight=Fraction(weight),
    )


def test_it_is_the_cross_entropy_of_held_out_tokens_under_the_counts_of_training() -> None:
    found = measure_unigram(STORE, [5, 6, 7], training=[source(0, 1)], held_out=[source(2)])
    assert found is not None
    # counts 4, 2, 0, each with one more
    assert found.loss == pytest.approx(-(2 * log(1 / 9) + log(5 / 9)) / 3)
    assert (found.counted, found.total) == (11, 11)


def test_without_held_out_text_it_is_that_of_the_training_text() -> None:
    found = measure_unigram(STORE, [5, 6, 7], training=[source(0, 1)], held_out=[source()])
    assert found is not None
    assert found.loss == pytest.approx(-(4 * log(5 / 9) + 2 * log(3 / 9)) / 6)


def test_a_source_counts_as_often_as_it_is_read() -> None:
    one = measure_unigram(STORE, [5, 6, 7], training=[source(0), source(1, weight=3)], held_out=[source(2)])
    same = measure_unigram(
        STORE, [5, 6, 7], training=[source(0), source(1), source(1), source(1)], held_out=[source(2)]
    )
    assert one is not None
    assert same is not None
    assert one.loss == pytest.approx(same.loss)
    without = measure_unigram(STORE, [5, 6, 7], training=[source(0), source(1, weight=0)], held_out=[source(2)])
    alone = measure_unigram(STORE, [5, 6, 7], training=[source(0)], held_out=[source(2)])
    assert without == alone


def test_nothing_to_predict_has_none() -> None:
    assert measure_unigram(STORE, [5, 6, 7], training=[source()], held_out=[source()]) is None


def test_even_tokens_have_the_logarithm_of_their_number() -> None:
    store = MemoryStore.generated([100] * 500, vocab_size=55)
    found = measure_unigram(
        store,
        store.ordinary_ids,
        training=[source(*range(400), store=store)],
        held_out=[source(*range(400, 500), store=store)],
    )
    assert found is not None
    assert found.loss == pytest.approx(log(50), abs=0.01)


def test_a_sample_is_near_and_says_that_it_is_one(tiny: ModuleType) -> None:
    store, tokenizer = tiny.text()
    weights = CompositionConfig().source_weights(store.sources)
    training, held_out = (sources_of(store, weights, held_out_fraction=0.2, train=train) for train in (True, False))
    whole, sample = (
        measure_unigram(store, tokenizer.ordinary_ids, training=training, held_out=held_out, sample_tokens=tokens)
        for tokens in (10**9, 2000)
    )
    assert whole is not None
    assert sample is not None
    assert sample.loss == pytest.approx(whole.loss, abs=0.05)
    assert whole.counted == whole.total == sample.total > 2 * sample.counted
    assert str(whole).endswith("is the loss of a model that knows only token frequencies")
    assert str(sample).endswith(f", from a sample of {sample.counted:,} of {sample.total:,} tokens")


def test_a_store_is_counted_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore.generated(range(1, 60), vocab_size=20)
    parts = {"training": [source(*range(40), store=store)], "held_out": [source(*range(40, 59), store=store)]}
    whole = measure_unigram(store, store.ordinary_ids, **parts)
    monkeypatch.setattr("unmask.train.unigram._PART_TOKENS", 50)
    assert measure_unigram(store, store.ordinary_ids, **parts) == whole


def test_a_label_of_a_pair_is_a_coin() -> None:
    assert baseline(5.0, {"mlm": 1.0}) == 5.0
    assert baseline(5.0, {"mlm": 2.0, "nsp": 0.5}) == pytest.approx(10.0 + 0.5 * log(2))


def test_the_line_tells_the_loss() -> None:
    assert str(Unigram(loss=6.0214, counted=7, total=7)).startswith("6.021 nats")
