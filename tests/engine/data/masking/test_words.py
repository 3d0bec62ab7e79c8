"""Masking by whole words, n-grams, spans and similar words: each follows its definition, written here word by word."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.config import MaskingConfig
from unmask.data.masking import Masker
from unmask.data.masking.selection import NGRAM, SPAN, Row, Words, group_heads
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.randomness import REPLACEMENT, SELECTION, WALK, philox_4x32, site_key
from unmask.errors import ConfigError

VOCAB = 3000
CLS, SEP, MASK = 2, 3, 4
# The text uses ids 5..99, replacements come from the others, so both are told apart.
TEXT, ORDINARY, SIMILAR = range(5, 100), np.arange(100, 2000), range(2000, 3000)
ALL = ["whole_word", "ngram", "span", "mac"]


def table(ids, starts, share=0.7, seed=0):
    """Similar words, made of ids of SIMILAR, for about `share` of the words of a row."""
    rng = np.random.default_rng(seed)
    bounds = [*np.flatnonzero(starts), len(ids)]
    words = {tuple(ids[a:b].tolist()) for a, b in pairwise(bounds)}
    pairs = [(w, tuple(rng.choice(SIMILAR, len(w)).tolist())) for w in sorted(words) if rng.random() < share]
    return SimilarWords([*pairs, ((9999,), (2000,))])


def make(masking, similar=None, **changes):
    return Masker(
        MaskingConfig(strategy=masking, **changes),
        seed=7,
        special_ids=[0, 1, 2, 3, 4],
        ordinary_ids=ORDINARY,
        mask_id=MASK,
        vocab_size=VOCAB,
        similar_words=similar,
    )


def row(lengths, seed=0, mean=1.7, special=0.02):
    """A packed row: pieces with [CLS] and [SEP], words of 1 to 5 tokens, now and then a special token in the text."""
    rng = np.random.default_rng(seed)
    pieces = [[CLS, *rng.choice(TEXT, n - 2), SEP] for n in lengths]
    ids = np.concatenate(pieces).astype(np.uint16)
    sizes = np.array(lengths)
    ends = np.cumsum(sizes)
    inside = np.ones(ids.size, dtype=bool)
    inside[ends - 1] = inside[ends - sizes] = False
    ids[inside & (rng.random(ids.size) < special)] = MASK
    starts = rng.random(ids.size) < 1 / mean
    starts[~inside] = True
    starts[np.minimum(ends - sizes + 1, ids.size - 1)] = True
    return ids, sizes, rng.integers(0, 2**63, len(lengths)), starts


def one_by_one(ids, lengths, keys, starts, masking, similar, budgets, seed=7):
    """The definition, one word at a time: chosen rows and what they become."""
    out, rows, begin = ids.astype(np.int64), [], 0
    for length, key, budget in zip(lengths.tolist(), keys.tolist(), budgets.tolist(), strict=True):
        name = (key & 0xFFFFFFFF, key >> 32)

        def draw(t, site, name=name):
            return philox_4x32(t, 0, *name, *site_key(seed, site))[:, 0].tolist()

        bounds = [t for t in range(length) if t == 0 or starts[begin + t]] + [length]
        words = [range(a, b) for a, b in pairwise(bounds)]
        ok = [all(ids[begin + t] > 4 for t in word) for word in words]
        law = {"whole_word": (1.0,), "ngram": NGRAM, "mac": NGRAM, "span": SPAN}[masking]
        head, w = {}, 0
        while w < len(words):
            size = 1
            if ok[w]:
                u = draw(words[w][0], WALK)[0]
                wanted = 1 + sum(u >= round(2**32 * sum(law[: n + 1])) for n in range(len(law) - 1))
                while size < wanted and w + size < len(words) and ok[w + size]:
                    size += 1
            head.update({w + i: w for i in range(size)})
            w += size
        priority = {
            w: philox_4x32(t // 4, 0, *name, *site_key(seed, SELECTION))[t % 4, 0] for w, (t, *_) in enumerate(words)
        }
        left, spare = budget, budget // 10
        for w in sorted(range(len(words)), key=lambda w: (priority[head[w]], w)):
            word = words[w]
            if not ok[w] or len(word) > left:
                continue
            kind = _kind(draw(word[0], REPLACEMENT)[0])
            other = similar.get(tuple(ids[begin + word[0] : begin + word[-1] + 1].tolist())) if similar else None
            if masking == "mac" and other is None:
                if len(word) > spare:
                    continue
                spare -= len(word)
                kind = "random" if kind == "replace" else kind
            left -= len(word)
            for place, t in enumerate(word):
                lead = words[head[w]][0] if masking == "span" else t
                what = kind if masking == "mac" else _kind(draw(lead, REPLACEMENT)[0])
                rows.append(begin + t)
                if what == "replace":
                    out[begin + t] = other[place] if masking == "mac" else MASK
                elif what == "random":
                    out[begin + t] = ORDINARY[draw(t, REPLACEMENT)[1] * len(ORDINARY) >> 32]
        begin += length
    return out, sorted(rows)


def _kind(draw):
    return "replace" if draw < round(2**32 * 0.8) else "random" if draw < round(2**32 * 0.9) else "keep"


@pytest.mark.parametrize("masking", ALL)
@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(3, 60), min_size=1, max_size=5), st.integers(0, 1000), st.sampled_from([0.15, 0.4]))
def test_follows_its_definition_word_by_word(masking, lengths, seed, rate):
    ids, sizes, keys, starts = row(lengths, seed)
    similar = table(ids, starts) if masking == "mac" else None
    known = dict(similar.pairs()) if similar else None
    masker = make(masking, similar, rate=rate)
    ours = masker(ids, sizes, keys, starts)
    expected, rows = one_by_one(ids, sizes, keys, starts, masking, known, masker.counts(sizes))
    assert ours.rows.tolist() == rows
    np.testing.assert_array_equal(ours.ids, expected)
    np.testing.assert_array_equal(ours.labels, ids[ours.rows])


@pytest.mark.parametrize("masking", ALL)
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(3, 200), min_size=1, max_size=10), st.integers(0, 1000))
def test_words_stay_whole_budgets_hold_and_no_special_is_chosen(masking, lengths, seed):
    ids, sizes, keys, starts = row(lengths, seed)
    masker = make(masking, table(ids, starts) if masking == "mac" else None)
    masked = masker(ids, sizes, keys, starts)
    word = np.cumsum(starts) - 1
    chosen = np.isin(np.arange(ids.size), masked.rows)
    for number in np.unique(word[masked.rows]):
        assert chosen[word == number].all()
    piece = np.repeat(np.arange(sizes.size), sizes)
    assert (np.bincount(piece[masked.rows], minlength=sizes.size) <= masker.counts(sizes)).all()
    assert (ids[masked.rows] > 4).all()
    untouched = np.delete(np.arange(ids.size), masked.rows)
    np.testing.assert_array_equal(masked.ids[untouched], ids[untouched])


@pytest.mark.parametrize("masking", ALL)
def test_a_piece_is_masked_the_same_wherever_it_lies(masking):
    ids, sizes, keys, starts = row([17, 80, 3, 256, 44])
    masker = make(masking, table(ids, starts) if masking == "mac" else None)
    whole = masker(ids, sizes, keys, starts)
    begins = np.cumsum(sizes) - sizes
    order = [3, 0, 4, 2, 1]
    pieces = [slice(begins[p], begins[p] + sizes[p]) for p in order]
    shuffled = masker(
        np.concatenate([ids[piece] for piece in pieces]),
        sizes[order],
        keys[order],
        np.concatenate([starts[piece] for piece in pieces]),
    )
    np.testing.assert_array_equal(shuffled.ids, np.concatenate([whole.ids[piece] for piece in pieces]))


@pytest.mark.parametrize("masking", ["whole_word", "ngram", "span"])
def test_the_budget_is_met_where_words_of_one_token_are_left(masking):
    ids, sizes, keys, starts = row([128] * 40, special=0.0)
    masker = make(masking)
    masked = masker(ids, sizes, keys, starts)
    piece = np.repeat(np.arange(sizes.size), sizes)
    assert np.bincount(piece[masked.rows]).tolist() == masker.counts(sizes).tolist()


@pytest.mark.parametrize(("law", "masking"), [(NGRAM, "ngram"), (SPAN, "span")])
def test_groups_have_the_lengths_of_the_law(law, masking):
    ids, sizes, keys, starts = row([4000] * 20, special=0.0)
    words = Words.of(Row.of(ids, sizes, keys, np.arange(VOCAB) < 5), starts)
    draws = np.random.default_rng(1).integers(0, 2**32, words.first.size).astype(np.uint64)
    heads = group_heads(words, draws, law)[words.candidate]
    lengths = Counter(np.unique(heads, return_counts=True)[1].tolist())
    total = sum(lengths.values())
    for size, share in enumerate(law, start=1):
        # the last group of a piece may be cut short: 20 of about 20,000
        assert abs(lengths[size] - total * share) < 5 * np.sqrt(total * share * (1 - share)) + 20
    assert set(lengths) <= set(range(1, len(law) + 1))


def test_the_laws_are_those_of_the_papers():
    assert NGRAM == (0.4, 0.3, 0.2, 0.1)
    assert len(SPAN) == 10
    assert sum(SPAN) == pytest.approx(1)
    assert sum(n * share for n, share in enumerate(SPAN, start=1)) == pytest.approx(3.8, abs=0.01)
    assert all(later / share == pytest.approx(0.8) for share, later in pairwise(SPAN))


def test_no_group_crosses_a_special_token_or_the_end_of_a_piece():
    ids, sizes, keys, starts = row([50] * 100, special=0.1)
    words = Words.of(Row.of(ids, sizes, keys, np.arange(VOCAB) < 5), starts)
    heads = group_heads(words, np.full(words.first.size, 2**32 - 1, dtype=np.uint64), SPAN)
    for word, head in enumerate(heads):
        assert words.piece[word] == words.piece[head]
        assert words.candidate[head : word + 1].all() or word == head
        assert word - head < 10


def test_a_span_shares_one_fate():
    ids, sizes, keys, starts = row([512] * 60, special=0.0)
    masked = make("span", split=(0.5, 0.0, 0.5))(ids, sizes, keys, starts)
    became = masked.ids[masked.rows] == MASK
    together = np.diff(masked.rows) == 1
    agree = (became[1:] == became[:-1])[together].mean()
    # Neighbours of different spans, about one in ten of these pairs, agree by chance.
    assert agree > 0.9
    alone = make("ngram", split=(0.5, 0.0, 0.5))(ids, sizes, keys, starts)
    became = alone.ids[alone.rows] == MASK
    assert abs((became[1:] == became[:-1]).mean() - 0.5) < 0.05


def test_correction_keeps_lengths_writes_no_mask_and_bounds_the_fallback():
    ids, sizes, keys, starts = row([128] * 200, special=0.0)
    similar = table(ids, starts, share=0.6)
    known = dict(similar.pairs())
    masker = make("mac", similar)
    masked = masker(ids, sizes, keys, starts)
    assert masked.ids.size == ids.size
    assert not (masked.ids == MASK).any()
    word = np.cumsum(starts) - 1
    kinds, unknown = Counter(), Counter()
    for rows in np.split(masked.rows, np.flatnonzero(np.diff(word[masked.rows])) + 1):
        before, after = ids[rows], masked.ids[rows]
        if np.array_equal(before, after):
            kinds["kept"] += 1
        elif np.isin(after, SIMILAR).all():
            kinds["similar"] += 1
            assert known[tuple(before.tolist())] == tuple(after.tolist())
        else:
            assert np.isin(after, ORDINARY).all()
            kinds["random"] += 1
        if tuple(before.tolist()) not in known:
            assert not np.isin(after, SIMILAR).any()
            unknown[int(rows[0]) // 128] += len(rows)
    # A tenth of 19, rounded down: one token of a word without a similar one in a piece.
    assert masker.counts([128])[0] == 19
    assert set(unknown.values()) == {1}
    total = sum(kinds.values())
    assert abs(kinds["kept"] - 0.1 * total) < 5 * np.sqrt(0.09 * total)
    by_chance = 0.8 * sum(unknown.values())
    assert abs(kinds["random"] - by_chance - 0.1 * total) < 6 * np.sqrt(0.09 * total)


def test_a_piece_without_a_candidate_predicts_nothing():
    ids = np.array([CLS, MASK, 0, 1, SEP, CLS, 7, 8, 9, SEP], dtype=np.uint16)
    starts = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 1], dtype=bool)
    for masking in ("whole_word", "ngram", "span"):
        masked = make(masking)(ids, [5, 5], np.array([1, 2]), starts)
        # The second piece has one word of three tokens and a budget of one.
        assert masked.rows.size == 0
        np.testing.assert_array_equal(masked.ids, ids)


def test_a_word_with_a_special_token_is_no_candidate():
    ids = np.array([CLS, 7, MASK, 8, 9, SEP], dtype=np.uint16)
    starts = np.array([1, 1, 0, 0, 1, 1], dtype=bool)
    for key in range(20):
        masked = make("whole_word", rate=0.9)(ids, [6], np.array([key]), starts)
        assert masked.rows.tolist() == [4]


@pytest.mark.parametrize("masking", ALL)
def test_an_empty_row_gives_nothing(masking):
    empty = np.zeros(0, dtype=np.int64)
    similar = SimilarWords([((5,), (6,))]) if masking == "mac" else None
    masked = make(masking, similar)(empty.astype(np.uint16), empty, empty.astype(np.uint64), empty.astype(bool))
    assert masked.rows.size == masked.labels.size == masked.ids.size == 0


def test_a_rate_of_one_call_overrides_that_of_the_masker():
    ids, sizes, keys, starts = row([512], special=0.0)
    masker = make("whole_word", rate=0.3)
    assert masker(ids, sizes, keys, starts, rate=0.15).rows.size == make("whole_word").counts([512])[0] == 77
    assert masker(ids, sizes, keys, starts).rows.size == 154


def test_refuses_a_table_where_none_is_used_and_mac_without_one():
    with pytest.raises(ConfigError, match=r"'mac' without a table of similar words; give masking.similar_words"):
        make("mac")
    with pytest.raises(ConfigError, match="masking: strategy is 'span' with a table"):
        make("span", SimilarWords([((5,), (6,))]))


def test_refuses_words_without_word_starts():
    ids, sizes, keys, _ = row([20])
    with pytest.raises(ValueError, match="'whole_word' needs word_starts"):
        make("whole_word")(ids, sizes, keys)
