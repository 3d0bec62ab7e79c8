"""Words of a packed row, and the greedy choice that fills a piece's budget with whole ones.

    word       = a run of tokens from one word start to the next; the start of a piece is one
    candidates = words without a special token
    order      = by (priority of the word, place in the piece), ascending
    visit      : a word of n tokens is taken if n <= what is left of the budget, else skipped (the rule of BERT's
                 published code), until nothing is left or the words are at an end

A second budget bounds a kind of token among the chosen: a word with `costs` above what is left of it is skipped too.
The visits of all pieces run side by side: a round takes, in each piece, the words before the first that overshoots,
and drops those that can no longer fit; what is left shrinks, so a handful of rounds end it. Shapes: W words.
Cost: about 150 ns a word, most of it the sort.
"""

from dataclasses import dataclass

import numpy as np

from unmask.data.masking.row import Flags, Indices, Row
from unmask.data.masking.row import Words as Draws

__all__ = ["Words", "take_words"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Words of a row, in its order.

    Attributes:
        first: row of the first token, (W,).
        size: tokens, (W,).
        piece: its piece, (W,).
        candidate: whether it may be chosen, (W,).
        of_token: number of each token's word, (N,).
    """

    first: Indices
    size: Indices
    piece: Indices
    candidate: Flags
    of_token: Indices

    @classmethod
    def of(cls, row: Row, word_starts: Flags) -> "Words":
        """Read the words of `row`; `word_starts` (N,) is True where a token begins one."""
        begins = word_starts | (row.token == 0)
        first = np.flatnonzero(begins)
        special = np.add.reduceat(row.special, first, dtype=np.int64) if first.size else np.zeros(0, dtype=np.int64)
        return cls(
            first=first,
            size=np.diff(first, append=row.ids.size),
            piece=row.piece[first],
            candidate=special == 0,
            of_token=np.cumsum(begins) - 1,
        )

    def rows(self, chosen: Flags) -> Indices:
        """Rows of the tokens of the chosen words (W,), ascending."""
        return np.flatnonzero(chosen[self.of_token])


def take_words(
    words: Words,
    priorities: Draws,
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
        costs: what a word takes of the second budget, (W,).
        cost_budgets: the second budget of each piece, (P,).
    Returns:
        Whether each word is chosen, (W,).
    """
    chosen = np.zeros(words.first.size, dtype=bool)
    costs = np.zeros_like(words.size) if costs is None else costs
    left = budgets.copy()
    spare = np.zeros_like(left) if cost_budgets is None else cost_budgets.copy()
    candidates = np.flatnonzero(words.candidate)
    ranks = words.piece[candidates].astype(np.uint64) << np.uint64(32) | priorities[candidates]
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
    """Sum of the values up to each, within its piece; pieces are ascending."""
    total = np.cumsum(values)
    begins = np.flatnonzero(np.diff(piece, prepend=-1))
    before = total[begins] - values[begins]
    running: Indices = total - np.repeat(before, np.diff(begins, append=piece.size))
    return running


def _totals(values: Indices, piece: Indices, pieces: int) -> Indices:
    # float64 weights are exact: a piece has far fewer than 2**53 tokens
    return np.bincount(piece, weights=values, minlength=pieces).astype(np.int64)
