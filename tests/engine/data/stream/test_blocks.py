"""The order of documents is a permutation that looks random, and the stream notes where blocks begin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data.stream.blocks import BlockStarts, Permutation


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 5000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 50))
def test_every_index_comes_exactly_once(n, seed, epoch):
    assert np.array_equal(np.sort(Permutation(n, seed, 1, epoch, 0)(np.arange(n))), np.arange(n))


def test_a_part_of_the_order_equals_that_part_of_the_whole():
    whole = Permutation(4321, 5, 1, 2, 3)(np.arange(4321))
    np.testing.assert_array_equal(Permutation(4321, 5, 1, 2, 3)(np.arange(1000, 2000)), whole[1000:2000])


@pytest.mark.parametrize("address", [(6, 1, 2, 3), (5, 2, 2, 3), (5, 1, 3, 3), (5, 1, 2, 4)])
def test_seed_site_epoch_and_source_each_change_the_order(address):
    base = Permutation(1000, 5, 1, 2, 3)(np.arange(1000))
    # Two independent orders of n agree in one place on average.
    assert np.count_nonzero(base == Permutation(1000, *address)(np.arange(1000))) < 10


def test_neighbours_are_spread_over_the_corpus():
    n = 100_003
    order = Permutation(n, 1, 1)(np.arange(n))
    distance = np.abs(np.diff(order)).mean()
    assert abs(distance / (n / 3) - 1) < 0.02
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.02


def test_each_place_of_a_short_order_is_equally_likely():
    counts = np.zeros((5, 5))
    for seed in range(2000):
        counts[np.arange(5), Permutation(5, seed, 1)(np.arange(5))] += 1
    # 400 expected; the bound is five standard deviations of a binomial count
    assert np.abs(counts - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)


def test_an_empty_corpus_is_refused():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        Permutation(0, 1, 1)


def learned():
    starts = BlockStarts()
    for block, start in ((1, 10), (2, 25), (7, 90)):
        starts.learn(block, start)
    return starts


@pytest.mark.parametrize(("index", "expected"), [(0, (0, 0)), (9, (0, 0)), (10, (1, 10)), (60, (2, 25)), (90, (7, 90))])
def test_finds_the_last_known_block_before_an_index(index, expected):
    assert learned().at_or_before(index) == expected


def test_a_block_without_batches_is_passed_over():
    starts = BlockStarts()
    starts.learn(1, 5)
    starts.learn(2, 5)
    assert starts.at_or_before(5) == (2, 5)


def test_learning_the_same_again_changes_nothing_and_a_contradiction_is_refused():
    starts = learned()
    starts.learn(2, 25)
    with pytest.raises(ValueError, match="block 2 must begin at micro-batch 25, was said to begin at 26"):
        starts.learn(2, 26)
