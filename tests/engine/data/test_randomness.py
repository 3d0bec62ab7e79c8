"""The stream's random numbers are Philox-4x32-10, as in the kernels, and keys name pieces uniquely."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data import randomness
from unmask.data.randomness import mix64, philox_4x32, piece_keys, site_key
from unmask_kernels import philox

KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]

word = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_gives_the_known_answers_of_random123(counter, key, expected):
    assert " ".join(f"{int(x):08x}" for x in philox_4x32(*counter, *key)[:, 0]) == expected


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(word, word, word, word), min_size=1, max_size=9), word, word)
def test_equals_the_kernels_philox(counters, k0, k1):
    columns = np.array(counters, dtype=np.uint64).T
    ours = philox_4x32(*columns, k0, k1)
    theirs = philox.philox_4x32(
        *(torch.from_numpy(column.astype(np.int64)) for column in columns), torch.tensor(k0), torch.tensor(k1)
    )
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.astype(np.int64), other.numpy())


def test_a_long_run_equals_its_counters_one_by_one():
    counters = np.arange(20_000, dtype=np.uint64)
    together = philox_4x32(counters, 7, counters, 9, 11, 13)
    for i in (0, 8191, 8192, 19_999):
        np.testing.assert_array_equal(together[:, i : i + 1], philox_4x32(i, 7, i, 9, 11, 13))


def test_no_counters_give_no_words():
    assert philox_4x32(np.zeros(0), 0, 0, 0, 1, 2).shape == (4, 0)


def test_mix64_is_one_to_one_and_changes_half_of_the_bits():
    values = np.arange(1 << 16, dtype=np.uint64)
    mixed = mix64(values)
    assert np.unique(mixed).size == values.size
    flipped = np.bitwise_count(mixed ^ mix64(values ^ np.uint64(1))) if hasattr(np, "bitwise_count") else None
    if flipped is not None:
        assert abs(flipped.mean() - 32) < 0.2


def test_pieces_of_a_corpus_have_different_keys():
    document, piece = (grid.ravel() for grid in np.meshgrid(np.arange(3000), np.arange(8)))
    keys = [piece_keys(epoch, source, document, piece) for epoch in (0, 1) for source in (0, 1)]
    assert np.unique(np.concatenate(keys)).size == 4 * document.size


def test_sites_seeds_and_parts_give_different_keys():
    keys = {
        site_key(seed, site, *parts) for seed in (0, 1, 2**64 - 1) for site in (1, 2) for parts in ((), (0,), (0, 1))
    }
    assert len(keys) == 18


def test_every_site_draws_numbers_of_its_own():
    sites = {name: getattr(randomness, name) for name in randomness.__all__ if name.isupper()}
    assert len(sites) == 8
    assert len(set(sites.values())) == len(sites)
