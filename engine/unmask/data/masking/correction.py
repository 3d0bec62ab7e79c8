"""`mac`, masked language modelling as correction (MacBERT: Cui et al. 2021, arXiv:1906.08101).

Words are chosen in n-grams (see `selection`). A draw at a chosen word's first token decides what the word becomes:

    split[0]   its similar word, which has the same number of tokens; random tokens if the table lacks the word
    split[1]   random ordinary tokens, each drawn by itself
    split[2]   itself

The word is predicted in every case, and [MASK] is never written. As in the paper, words without a similar word are
limited to a tenth of what is masked: the chosen words that the table lacks hold at most a tenth of the piece's budget,
rounded down. A word beyond this limit is skipped and the next one visited. The limit counts such words whatever they
draw; otherwise the words that the table lacks would be rarer among the random ones than among the kept ones. Pieces
with few words in the table predict less than their budget.

Cost: about 150 ns a word beyond `ngram`, most of it the look-up in the table.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unmask.data.masking.selection import Flags, Indices, Row, Words, take_words
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.randomness import Uint64Array

__all__ = ["FALLBACK_SHARE", "Fate", "SimilarWords", "choose_correction", "replace_by_similar"]

FALLBACK_SHARE = 10
"""One token in so many of the budget may be in words that the table lacks."""
_SIMILAR, _RANDOM, _KEPT = 0, 1, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What becomes of each of the W words of a row.

    Attributes:
        chosen: whether the word is predicted, (W,).
        kinds: 0 for a similar word, 1 for random tokens, 2 for unchanged, (W,).
        entries: the word's entry in the table, or -1, (W,).
    """

    chosen: Flags
    kinds: npt.NDArray[np.int8]
    entries: Indices


def choose_correction(
    row: Row, words: Words, priorities: Uint64Array, budgets: Indices, kinds: npt.NDArray[np.int8], table: SimilarWords
) -> Fate:
    """Choose words, and limit those that the table lacks.

    Args:
        row, words, table: the pieces, their words, and the similar words.
        priorities: of each word, (W,), below 2**32.
        budgets: tokens to choose in each piece at most, (P,).
        kinds: what each word becomes if the table has it, as in `Fate`, (W,).
    """
    entries = np.full(words.first.size, -1, dtype=np.int64)
    asked = np.flatnonzero(words.candidate)
    entries[asked] = table.find(row.ids, words.first[asked], words.size[asked])
    unknown = entries < 0
    costs = np.where(unknown, words.size, 0)
    chosen = take_words(words, priorities, budgets, costs=costs, cost_budgets=budgets // FALLBACK_SHARE)
    return Fate(
        chosen=chosen, kinds=np.where(unknown & (kinds == _SIMILAR), _RANDOM, kinds).astype(np.int8), entries=entries
    )


def replace_by_similar(
    row: Row, words: Words, rows: Indices, fate: Fate, table: SimilarWords, random: Indices
) -> Indices:
    """Replace the chosen tokens.

    Args:
        row, words, table: the pieces, their words, and the similar words.
        rows: of the chosen tokens, (m,).
        fate: what becomes of the words.
        random: the random id that each chosen token becomes if its word draws random tokens, (m,).
    Returns:
        The new ids, (m,).
    """
    word = words.of_token[rows]
    kinds = fate.kinds[word]
    out = np.where(kinds == _RANDOM, random, row.ids[rows].astype(np.int64))
    similar = kinds == _SIMILAR
    place = rows - words.first[word]
    out[similar] = table.token(fate.entries[word[similar]], place[similar])
    return out
