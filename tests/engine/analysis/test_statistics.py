"""Burstiness, packing and mask statistics on texts whose answers are known."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from streams import make_stream
from unmask.analysis.burstiness import exponent, exponents, log_zeta
from unmask.analysis.masks import measure_masks
from unmask.analysis.packing import describe_lengths, measure_packing, sequences_of, texts_of
from unmask.batch import PackedBatch, assemble, pack
from unmask.config import MaskingConfig
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.store.memory import MemoryStore


def test_zeta_has_its_known_values() -> None:
    known = {1.5: 2.612375348685488, 2.0: np.pi**2 / 6, 4.0: np.pi**4 / 90, 10.0: 1.000994575127818}
    places = np.array(list(known))
    np.testing.assert_allclose(np.exp(log_zeta(places)), list(known.values()), rtol=1e-8)


@pytest.mark.parametrize("true", [1.5, 2.0, 3.0])
def test_the_exponent_of_counts_drawn_from_it_is_found(true: float) -> None:
    counts = np.random.default_rng(0).zipf(true, 200_000)
    assert exponent(counts.tolist()) == pytest.approx(true, rel=0.01)


def test_the_exponent_has_the_greatest_likelihood() -> None:
    counts = [1, 1, 1, 2, 5, 3, 1, 1, 9]
    found = exponent(counts)
    grid = np.linspace(1.05, 9.0, 4000)
    likelihood = -grid * np.log(counts).sum() - len(counts) * log_zeta(grid)
    assert found == pytest.approx(grid[likelihood.argmax()], abs=0.003)


def test_repetition_lowers_the_exponent_and_its_bounds_hold() -> None:
    varied, repeated = np.arange(50), np.repeat(np.arange(5), 10)
    high, low = exponents([varied, repeated, np.zeros(0, dtype=np.int64)])
    assert high == pytest.approx(10.0)
    assert 1.01 <= low < 1.5
    with pytest.raises(ValueError, match="counts must hold numbers of at least 1"):
        exponent([])


def test_lengths_are_counted_in_powers_of_two() -> None:
    found = describe_lengths(np.array([0, 1, 2, 3, 4, 7, 8, 100]))
    assert (found.count, found.shortest, found.longest, found.mean) == (7, 1, 100, 125 / 7)
    assert found.edges == [1, 2, 4, 8, 16, 32, 64, 100]
    assert found.counts == [1, 2, 2, 1, 0, 0, 1]
    # the last bin ends at the longest, which it counts
    full = describe_lengths(np.array([5, 64, 128, 128]))
    assert (full.edges[-2:], full.counts[-1]) == ([64, 128], 3)
    assert describe_lengths(np.array([1, 1])).counts == [2]
    with pytest.raises(ValueError, match="a document that is not empty"):
        describe_lengths(np.zeros(3, dtype=np.int64))


def test_packing_counts_real_tokens_and_slots() -> None:
    batch = pack([[2, 7, 8, 3], [2, 9, 3]], tokens=16, max_seqlen=8)
    assert sequences_of(batch).tolist() == [4, 3]
    found = measure_packing([batch, batch])
    assert (found.batches, found.tokens, found.fill, found.masks) == (2, 14, 7 / 16, None)
    assert found.slots == 2 / batch.documents.keys.numel()
    assert [text.tolist() for text in texts_of(batch, {"cls": 2, "sep": 3})] == [[7, 8], [9]]
    with pytest.raises(ValueError, match="needs at least one micro-batch"):
        measure_packing([])


def masked(masking: str, count: int = 30) -> tuple[list[PackedBatch], MemoryStore, SimilarWords | None]:
    rng = np.random.default_rng(2)
    lengths = rng.integers(40, 120, 300)
    total = int(lengths.sum())
    # Words of the text are below 300, similar words from 300 on, and random tokens rarely fall on either.
    store = MemoryStore(
        rng.integers(5, 300, total).astype(np.uint16),
        lengths,
        vocab_size=20_000,
        word_starts=rng.random(total) < 0.6,
    )
    table = None
    if masking == "mac":
        pairs = [((a,), (a + 300,)) for a in range(5, 300) if a % 3]
        table = SimilarWords(
            pairs + [((a, b), (a + 300, b + 300)) for a in range(5, 300) for b in range(5, 300) if b % 4]
        )
    stream = make_stream(
        store,
        max_length=128,
        micro_batch_tokens=2048,
        held_out_fraction=0.0,
        masking=MaskingConfig(strategy=masking),  # type: ignore[arg-type]
        similar_words=table,
    )
    return list(islice(stream.batches(), count)), store, table


@pytest.mark.parametrize("masking", ["token", "whole_word", "ngram", "span", "mac"])
def test_mask_statistics_are_those_of_the_strategy(masking: str) -> None:
    batches, store, table = masked(masking)
    found = measure_masks(batches, store.special_ids, similar_words=table)
    assert found is not None
    assert 0.135 < found.rate < 0.155
    assert found.specials == 0
    # One draw decides the replacement of a span, so there are fewer, larger draws.
    tolerance = 0.06 if masking == "span" else 0.025
    assert found.kept == pytest.approx(0.1, abs=tolerance)
    if masking == "mac":
        assert found.mask_tokens == found.masked == 0
        assert found.similar > 0.65
        assert 0.01 < found.fallback <= 0.1
    else:
        assert found.masked == pytest.approx(0.8, abs=tolerance)
        assert found.similar == found.fallback == 0
        assert found.mask_tokens == round(found.masked * found.predictions)
    assert found.masked + found.similar + found.other + found.kept == pytest.approx(1)
    assert (found.intact == 1) == (masking != "token")
    assert sum(found.ngrams.values()) == pytest.approx(1)


def test_a_word_is_similar_as_a_whole_or_not_at_all() -> None:
    table = SimilarWords([((7, 8), (17, 18)), ((9, 10), (9, 20))])
    specials = {"cls": 2, "sep": 3, "mask": 4}
    # a word by chance in one of its two tokens, and one that shares a token with its similar word
    batch = assemble(
        np.array([2, 17, 55, 9, 20, 3]),
        np.array([6]),
        keys=np.array([1]),
        tokens=6,
        sequences=1,
        max_seqlen=6,
        word_starts=np.array([True, True, False, True, False, True]),
        masked=np.array([1, 2, 3, 4]),
        labels=np.array([7, 8, 9, 10]),
    )
    found = measure_masks([batch], specials, similar_words=table)
    assert found is not None
    assert (found.similar, found.other, found.kept, found.fallback) == (0.5, 0.5, 0.0, 0.0)
    assert (found.words, found.intact, found.ngrams) == (2, 1.0, {2: 1.0})


def test_ngrams_are_longer_than_words_and_spans_longer_still() -> None:
    def mean(masking: str) -> float:
        batches, store, table = masked(masking, 10)
        found = measure_masks(batches, store.special_ids, similar_words=table)
        assert found is not None
        return sum(length * share for length, share in found.ngrams.items())

    assert mean("whole_word") < mean("ngram") < mean("span")


def test_original_tokens_are_found_under_their_masks() -> None:
    lengths = np.full(50, 60)
    store = MemoryStore.generated(lengths, vocab_size=90)
    batch = next(make_stream(store, max_length=64, micro_batch_tokens=256, held_out_fraction=0.0).batches())
    texts = {tuple(document) for document in store.ids.reshape(50, 60).tolist()}
    found = texts_of(batch, store.special_ids)
    assert len(found) == 4
    assert {tuple(text.tolist()) for text in found} <= texts
