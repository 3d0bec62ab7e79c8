"""Chooses the tokens of a packed row that are predicted: single tokens, whole words, n-grams or spans of words.

    token        the tokens that come first by (priority, place), exactly `budget` of them        (Devlin et al. 2019)
    whole_word   words by (priority of the first token, place), each taken if it still fits in the budget
    ngram, span  the same, but all words of a group share the priority of the group's first token

A row holds N tokens in P pieces. A piece is what stands between a [CLS] and its last [SEP]; a pair is one piece. Every
random number has an address: the token's place t in its piece and the piece's 64-bit key, split in (low, high):

    draws(t)    = the four words of philox(counter (t, 0, low, high), key)
    priority(t) = word t mod 4 of philox(counter (t div 4, 0, low, high), key)

So a piece is masked the same wherever it lies in the row. A token whose id is special is never chosen, nor is a word
that holds one.

A word runs from one word start to the next. The words of a piece are visited in their order; a word of n tokens is
taken if n is at most what is left of the budget, else it is skipped, as in BERT's published code. The visits of all
pieces run side by side: in each round every piece takes the words before the first that does not fit, and drops the
words that can no longer fit. A handful of rounds suffice.

Groups come from a walk over each run of words without a special token, so no group crosses a [SEP]: at a word, draw n
by a law; this word and the n - 1 after it, or what is left of the run, are a group; go on behind it.

    law of `ngram`   1, 2, 3, 4 words with 40, 30, 20, 10 %           (MacBERT: Cui et al. 2021, arXiv:1906.08101)
    law of `span`    Geometric(0.2) on 1..10, renormalised, mean 3.8  (SpanBERT: Joshi et al. 2020, arXiv:1907.10529)

The last group is shortened to the words that the budget still takes. SpanBERT's code draws spans at random places,
where they may overlap. The walk keeps them apart, so every token has the same chance and lengths follow the law.

Cost: 20 ns a token for `token`, 150 ns a word for words, most of it sorting, and 60 ns a word more for groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unmask.data.randomness import Uint64Array, philox_4x32

__all__ = ["NGRAM", "SPAN", "Flags", "Indices", "Row", "Words", "choose_tokens", "group_heads", "take_words"]

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NGRAM = (0.4, 0.3, 0.2, 0.1)
_GEOMETRIC = [0.2 * 0.8**n for n in range(10)]
SPAN = tuple(share / sum(_GEOMETRIC) for share in _GEOMETRIC)

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_PRIORITY_BITS = np.uint64(34)
_NEVER = np.uint64((1 << 33) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A packed row.

    Attributes:
        ids: token ids with [CLS] and [SEP], (N,).
        special: True where an id is never chosen, (N,).
        sizes: tokens of each piece, all positive, (P,).
        starts: row of the first token of each piece, (P,).
        keys: of the pieces, uint64 (P,).
        piece: number of each token's piece, (N,).
        token: place of each token in its piece, (N,).
    """

    ids: npt.NDArray[Any]
    special: Flags
    sizes: Indices
    starts: Indices
    keys: Uint64Array
    piece: Indices
    token: Indices

    @classmethod
    def of(cls, ids: npt.NDArray[Any], lengths: npt.ArrayLike, keys: npt.ArrayLike, is_special: Flags) -> "Row":
        """Lay out pieces of `lengths` (P,) tokens; `keys` may be int64 with the same bits, `is_special` is (V,)."""
        sizes = np.asarray(lengths, dtype=np.int64)
        piece = np.repeat(np.arange(sizes.size), sizes)
        starts = np.cumsum(sizes) - sizes
        return cls(
            ids=ids,
            special=is_special[ids],
            sizes=sizes,
            starts=starts,
            keys=np.asarray(keys).view(np.uint64),
            piece=piece,
            token=np.arange(ids.size) - starts[piece],
        )

    def draws(self, rows: Indices, key: tuple[int, int]) -> Uint64Array:
        """Draw four random words at each of the tokens `rows` (m,); returns (4, m), values below 2**32."""
        keys = self.keys[self.piece[rows]]
        return philox_4x32(self.token[rows], 0, keys & _LOW, keys >> _32, *key)

    def priorities(self, key: tuple[int, int]) -> Uint64Array:
        """Draw the priority of every token, (N,), below 2**32; one Philox call serves four tokens of a piece."""
        calls = (self.sizes + 3) // 4
        first = np.cumsum(calls) - calls
        owner = np.repeat(np.arange(calls.size), calls)
        call = np.arange(owner.size) - first[owner]
        words = philox_4x32(call, 0, (self.keys & _LOW)[owner], (self.keys >> _32)[owner], *key)
        return words.T.ravel()[np.arange(self.piece.size) + (4 * first - self.starts)[self.piece]]

    def count(self, flags: Flags) -> Indices:
        """Count the flags (N,) that are set in each piece, (P,)."""
        return np.bincount(self.piece[flags], minlength=self.sizes.size)


def choose_tokens(row: Row, budgets: Indices, priorities: Uint64Array) -> Indices:
    """Choose single tokens.

    Args:
        row: the pieces.
        budgets: tokens to choose in each piece, (P,); all candidates where a piece has fewer.
        priorities: of each token, (N,), below 2**32.
    Returns:
        Rows of the chosen tokens, ascending, (m,).
    """
    counts = np.minimum(budgets, row.sizes - row.count(row.special))
    ranks = priorities + np.uint64(1)
    ranks[row.special] = _NEVER
    # One sort of the row orders every piece by itself, since the piece is in the high bits.
    ranks |= row.piece.astype(np.uint64) << _PRIORITY_BITS
    ordered = np.sort(ranks)
    last = np.where(counts > 0, ordered[np.minimum(row.starts + np.maximum(counts, 1) - 1, ranks.size - 1)], 0)
    chosen = ranks <= last[row.piece]
    excess = row.count(chosen) - counts
    # Equal priorities chose too many in about one micro-batch of thousands: give up the later tokens.
    for p in np.flatnonzero(excess > 0):
        rows = slice(row.starts[p], row.starts[p] + row.sizes[p])
        tied = np.flatnonzero(ranks[rows] == last[p]) + row.starts[p]
        chosen[tied[tied.size - excess[p] :]] = False
    return np.flatnonzero(chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """The W words of a row, in its order.

    Attributes:
        first: row of each word's first token, (W,).
        size: tokens of each word, (W,).
        piece: number of each word's piece, (W,).
        candidate: whether a word may be chosen, (W,).
        of_token: number of each token's word, (N,).
    """

    first: Indices
    size: Indices
    piece: Indices
    candidate: Flags
    of_token: Indices

    @classmethod
    def of(cls, row: Row, word_starts: Flags) -> "Words":
        """Find the words of `row`; `word_starts` (N,) is True where a token begins one."""
        begins = word_starts | (row.token == 0)
        first = np.flatnonzero(begins)
        of_token = np.cumsum(begins) - 1
        return cls(
            first=first,
            size=np.diff(first, append=row.ids.size),
            piece=row.piece[first],
            candidate=np.bincount(of_token[row.special], minlength=first.size) == 0,
            of_token=of_token,
        )

    def rows(self, chosen: Flags) -> Indices:
        """Return the rows of the tokens of the chosen words (W,), ascending, (m,)."""
        return np.flatnonzero(chosen[self.of_token])


def take_words(
    words: Words,
    priorities: Uint64Array,
    budgets: Indices,
    *,
    costs: Indices | None = None,
    cost_budgets: Indices | None = None,
) -> Flags:
    """Choose whole words.

    Args:
        words: of a row.
        priorities: of each word, (W,), below 2**32; of equal ones the earlier word comes first.
        budgets: tokens to choose in each piece at most, (P,).
        costs: what each word takes of a second budget, (W,). Default: nothing.
        cost_budgets: the second budget of each piece, (P,). A word that exceeds what is left of it is skipped too.
    Returns:
        Whether each word is chosen, (W,).
    """
    chosen = np.zeros(words.first.size, dtype=bool)
    costs = np.zeros_like(words.size) if costs is None else costs
    left = budgets.copy()
    spare = np.zeros_like(left) if cost_budgets is None else cost_budgets.copy()
    candidates = np.flatnonzero(words.candidate)
    ranks = words.piece[candidates].astype(np.uint64) << _32 | priorities[candidates]
    waiting = candidates[np.argsort(ranks, kind="stable")]
    while True:
        piece = words.piece[waiting]
        waiting = waiting[(words.size[waiting] <= left[piece]) & (costs[waiting] <= spare[piece])]
        if not waiting.size:
            return chosen
        piece = words.piece[waiting]
        fits = (_running(words.size[waiting], piece) <= left[piece]) & (_running(costs[waiting], piece) <= spare[piece])
        taken = waiting[fits]
        chosen[taken] = True
        left -= _totals(words.size[taken], piece[fits], left.size)
        spare -= _totals(costs[taken], piece[fits], left.size)
        waiting = waiting[~fits]


def _running(values: Indices, piece: Indices) -> Indices:
    """Sum the values up to each, within its piece; pieces are ascending."""
    total = np.cumsum(values)
    begins = np.flatnonzero(np.diff(piece, prepend=-1))
    before = total[begins] - values[begins]
    return total - np.repeat(before, np.diff(begins, append=piece.size))


def _totals(values: Indices, piece: Indices, pieces: int) -> Indices:
    """Sum the values of each piece, (pieces,)."""
    # float64 weights are exact: a piece has far fewer than 2**53 tokens
    return np.bincount(piece, weights=values, minlength=pieces).astype(np.int64)


def group_heads(words: Words, draws: Uint64Array, law: Sequence[float]) -> Indices:
    """Cut the words into n-grams or spans by the walk.

    Args:
        words: of a row; a word that is no candidate is a group of its own.
        draws: a random number at each word, (W,), below 2**32.
        law: shares of groups of 1, 2, ... words.
    Returns:
        Number of the first word of each word's group, (W,).
    """
    count = words.first.size
    edges = np.round(2.0**32 * np.cumsum(law)[:-1]).astype(np.uint64)
    sizes = 1 + np.searchsorted(edges, draws, side="right")
    sizes[~words.candidate] = 1
    place = np.arange(count)
    # a run of candidates begins where a word does not join the one before it; any other word is a run of its own
    joins = words.candidate[1:] & words.candidate[:-1] & (words.piece[1:] == words.piece[:-1])
    opens = np.append(True, ~joins)[:count]
    bounds = np.append(np.flatnonzero(opens), count)
    end = bounds[np.cumsum(opens)]
    # Follow all walks at once: the jumps double in each sweep, so log2(words) sweeps reach every head. The place
    # behind the last word is where every walk ends.
    jump = np.append(np.minimum(place + sizes, end), count)
    reached = np.append(opens, True)
    seen = 0
    while (number := int(np.count_nonzero(reached))) != seen:
        seen = number
        reached[jump[reached]] = True
        jump = jump[jump]
    return np.maximum.accumulate(np.where(reached[:-1], place, 0))
