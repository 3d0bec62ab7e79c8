"""BERT's masking: exact counts, no special token chosen, 80/10/10, and no dependence on the packed row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.config import MaskingConfig
from unmask.data.masking import Masker, selection
from unmask.data.randomness import REPLACEMENT, SELECTION, philox_4x32, site_key
from unmask.errors import ConfigError

VOCAB = 3000
ORDINARY = np.arange(100, VOCAB)
CLS, SEP, MASK = 2, 3, 4


def make(*, rate=0.15, split=(0.8, 0.1, 0.1), **changes):
    settings_ = {
        "seed": 7,
        "special_ids": [0, 1, 2, 3, 4],
        "ordinary_ids": ORDINARY,
        "mask_id": MASK,
        "vocab_size": VOCAB,
    }
    return Masker(MaskingConfig(rate=rate, split=split), **(settings_ | changes))


def row(lengths, seed=0):
    """A packed row of pieces with [CLS] and [SEP] and ordinary tokens 5..VOCAB, and their keys."""
    rng = np.random.default_rng(seed)
    pieces = [[CLS, *rng.integers(5, VOCAB, n - 2), SEP] for n in lengths]
    return np.concatenate(pieces).astype(np.uint16), np.array(lengths), rng.integers(0, 2**63, len(lengths))


def one_by_one(ids, lengths, keys, *, seed, counts):
    """The definition of the module's docstring, a token at a time."""
    out, rows, start = ids.copy(), [], 0
    for length, key, count in zip(lengths.tolist(), keys.tolist(), counts.tolist(), strict=True):
        name = (key & 0xFFFFFFFF, key >> 32)
        words = [philox_4x32(t // 4, 0, *name, *site_key(seed, SELECTION))[t % 4, 0] for t in range(length)]
        candidates = [t for t in range(length) if ids[start + t] > 4]
        for t in sorted(sorted(candidates, key=lambda t: (words[t], t))[:count]):
            kind, draw = philox_4x32(t, 0, *name, *site_key(seed, REPLACEMENT))[:2, 0].tolist()
            if kind < round(2**32 * 0.8):
                out[start + t] = MASK
            elif kind < round(2**32 * 0.9):
                out[start + t] = ORDINARY[draw * len(ORDINARY) >> 32]
            rows.append(start + t)
        start += length
    return out, rows


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(3, 40), min_size=1, max_size=6), st.integers(0, 2**64 - 1))
def test_follows_its_definition_token_by_token(lengths, seed):
    masker = make(seed=seed)
    ids, sizes, keys = row(lengths)
    ours = masker(ids, sizes, keys)
    expected, rows = one_by_one(ids, sizes, keys, seed=seed, counts=masker.counts(sizes))
    assert ours.rows.tolist() == rows
    np.testing.assert_array_equal(ours.ids, expected)
    np.testing.assert_array_equal(ours.labels, ids[rows])


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.4, 0.05])
def test_counts_are_those_of_the_published_code(rate):
    lengths = np.arange(3, 5000)
    expected = [min(max(1, round(int(n) * rate)), int(n) - 2) for n in lengths]
    assert make(rate=rate).counts(lengths).tolist() == expected


def test_lengths_without_a_token_inside_count_nothing():
    assert make().counts([0, 1, 2]).tolist() == [0, 0, 0]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(3, 200), min_size=1, max_size=20), st.integers(0, 1000))
def test_every_piece_gets_its_exact_count_and_no_special_is_chosen(lengths, seed):
    masker = make(seed=seed)
    ids, sizes, keys = row(lengths, seed)
    masked = masker(ids, sizes, keys)
    piece = np.repeat(np.arange(sizes.size), sizes)
    assert np.bincount(piece[masked.rows], minlength=sizes.size).tolist() == masker.counts(sizes).tolist()
    assert (ids[masked.rows] > 4).all()
    untouched = np.delete(np.arange(ids.size), masked.rows)
    np.testing.assert_array_equal(masked.ids[untouched], ids[untouched])


def test_text_that_spells_special_tokens_is_left_alone():
    ids = np.array([CLS, MASK, 0, 1, SEP, CLS, 50, MASK, MASK, MASK, MASK, MASK, MASK, MASK, SEP], dtype=np.uint16)
    masked = make(rate=1.0)(ids, [5, 10], np.array([1, 2]))
    assert masked.rows.tolist() == [6]
    assert masked.labels.tolist() == [50]


def test_a_piece_is_masked_the_same_wherever_it_lies():
    ids, sizes, keys = row([17, 80, 3, 256, 44])
    whole = make()(ids, sizes, keys)
    starts = np.cumsum(sizes) - sizes
    order = [3, 0, 4, 2, 1]
    shuffled = make()(np.concatenate([ids[starts[p] : starts[p] + sizes[p]] for p in order]), sizes[order], keys[order])
    offset = 0
    for p in order:
        ours = shuffled.ids[offset : offset + sizes[p]]
        np.testing.assert_array_equal(ours, whole.ids[starts[p] : starts[p] + sizes[p]])
        offset += sizes[p]


def test_shares_and_places_are_within_binomial_bounds():
    lengths = [512] * 400
    ids, sizes, keys = row(lengths)
    # The text uses ids below 100 only, so that a random replacement never looks like the original.
    ids = np.where(ids > 4, 5 + ids % 95, ids).astype(np.uint16)
    masked = make()(ids, sizes, keys)
    n = masked.rows.size
    new = masked.ids[masked.rows]
    shares = [
        (new == MASK).sum(),
        ((new != MASK) & (new != masked.labels)).sum(),
        (new == masked.labels).sum(),
    ]
    for got, share in zip(shares, (0.8, 0.1, 0.1), strict=True):
        assert abs(got - n * share) < 5 * np.sqrt(n * share * (1 - share))
    random = new[(new != MASK) & (new != masked.labels)]
    assert np.isin(random, ORDINARY).all()
    assert abs(random.mean() - ORDINARY.mean()) < 5 * ORDINARY.std() / np.sqrt(random.size)
    by_place = np.bincount(masked.rows % 512, minlength=512)
    assert by_place[0] == by_place[511] == 0
    share = 77 / 510
    assert np.abs(by_place[1:511] - 400 * share).max() < 5 * np.sqrt(400 * share * (1 - share))


def test_seeds_and_keys_change_the_choice():
    ids, sizes, keys = row([512])
    base = set(make()(ids, sizes, keys).rows.tolist())
    for other in (make(seed=8)(ids, sizes, keys), make()(ids, sizes, keys + 1)):
        # Two independent choices of 77 among 510 share 12 on average.
        assert len(base & set(other.rows.tolist())) < 35


@pytest.mark.parametrize(
    ("split", "expected"), [((1.0, 0.0, 0.0), {MASK}), ((0.0, 0.0, 1.0), {50}), ((0.0, 1.0, 0.0), {777})]
)
def test_a_split_of_one_kind_makes_only_that_kind(split, expected):
    ids = np.array([CLS, *[50] * 200, SEP], dtype=np.uint16)
    masked = make(split=split, ordinary_ids=[777])(ids, [202], np.array([5]))
    assert set(masked.ids[masked.rows].tolist()) == expected


def test_equal_priorities_are_broken_by_the_earlier_token(monkeypatch):
    monkeypatch.setattr(selection, "philox_4x32", lambda c0, *rest: np.full((4, np.size(c0)), 5, dtype=np.uint64))
    ids, sizes, keys = row([20, 40])
    assert make()(ids, sizes, keys).rows.tolist() == [1, 2, 3, 21, 22, 23, 24, 25, 26]


def test_an_empty_row_gives_nothing():
    masked = make()(np.zeros(0, dtype=np.uint16), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64))
    assert masked.rows.size == masked.labels.size == masked.ids.size == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, r"MaskingConfig: rate must be above 0 and at most 1, got 0; BERT masks 0\.15"),
        ({"rate": 1.5}, r"MaskingConfig: rate must be above 0 and at most 1, got 1\.5; BERT masks 0\.15"),
        (
            {"split": (0.8, 0.1, 0.2)},
            r"MaskingConfig: split must be three shares that sum to 1, got \[0\.8, 0\.1, 0\.2\]",
        ),
        ({"split": (1.1, -0.1, 0.0)}, "MaskingConfig: split must be three shares that sum to 1"),
        ({"split": (0.9, 0.1)}, "MaskingConfig: split must be a list of 3"),
        ({"rate": "0.15"}, r"MaskingConfig: rate must be a number, got '0\.15' \(str\)"),
        ({"ordinary_ids": []}, "ordinary_ids must hold the ids"),
    ],
)
def test_a_rule_out_of_range_is_refused_under_the_name_of_the_setting(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)
