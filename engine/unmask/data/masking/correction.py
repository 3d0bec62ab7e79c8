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

import numpy as np
import numpy.typing as npt

from unmask.data.masking.selection import Flags, Indices, Row, Words, take_words
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.randomness import Uint64Array

__all__ = ["FALLBACK_SHARE", "SimilarWords", "choose_correction", "replace_by_similar"]

FALLBACK_SHARE = 10
"""One token in so many of the budget may be in words that the table lacks."""
_SIMILAR, _KEPT = 0, 2


def choose_correction(
    row: Row, words: Words, priorities: Uint64Array, budgets: Indices, table: SimilarWords
) -> tuple[Flags, Indices]:
    """Choose words, and limit those that the table lacks.

    Args:
        row, words, table: the pieces, their words, and the similar words.
        priorities: of each word, (W,), below 2**32.
        budgets: tokens to choose in each piece at most, (P,).
    Returns:
        Whether each word is chosen, (W,), and its entry in the table, or -1, (W,).
    """
    entries = np.full(words.first.size, -1, dtype=np.int64)
    asked = np.flatnonzero(words.candidate)
    entries[asked] = table.find(row.ids, words.first[asked], words.size[asked])
    costs = np.where(entries < 0, words.size, 0)
    return take_words(words, priorities, budgets, costs=costs, cost_budgets=budgets // FALLBACK_SHARE), entries


def replace_by_similar(
    row: Row,
    words: Words,
    rows: Indices,
    kinds: npt.NDArray[np.int8],
    entries: Indices,
    table: SimilarWords,
    random: Indices,
) -> Indices:
    """Replace the chosen tokens.

    Args:
        row, words, table: the pieces, their words, and the similar words.
        rows: of the chosen tokens, (m,).
        kinds: what each word becomes: 0 its similar word, 1 random tokens, 2 itself, (W,).
        entries: its entry in the table, or -1, which makes it random tokens instead of a similar word, (W,).
        random: the random id that each chosen token becomes if its word draws random tokens, (m,).
    Returns:
        The new ids, (m,).
    """
    word = words.of_token[rows]
    kind, entry, place = kinds[word], entries[word], rows - words.first[word]
    out = np.where(kind == _KEPT, row.ids[rows].astype(np.int64), random)
    similar = (kind == _SIMILAR) & (entry >= 0)
    out[similar] = table.token(entry[similar], place[similar])
    return out
