"""`mac`, masked language modelling as correction (MacBERT: Cui et al. 2021, arXiv:1906.08101).

Words are chosen in n-grams (`walk`). A chosen word becomes, by one draw at its first token,

    split[0]   its similar word, which has the same number of tokens; without one in the table: random tokens
    split[1]   random ordinary tokens, each drawn by itself
    split[2]   itself

and is predicted in every case. [MASK] is never written. Replacement by chance for want of a similar word is bounded to
a tenth of what is masked, as the paper has it: the words chosen that the table lacks hold at most a tenth of the
piece's budget, rounded down; a word beyond that is given up and the next one visited. The bound counts them whatever
they draw, or else the table's gaps would show in what is kept and what is random. Pieces with few words in the table
predict less than their budget.

Cost: about 150 ns a word beyond `ngram`, most of it the look-up of the table.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unmask.data.masking.row import Flags, Indices, Row
from unmask.data.masking.row import Words as Draws
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.masking.words import Words, take_words

__all__ = ["FALLBACK_SHARE", "Fate", "SimilarWords", "choose_correction", "replace_by_similar"]

# one token in so many of the budget
FALLBACK_SHARE = 10
_SIMILAR, _RANDOM, _KEPT = 0, 1, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What becomes of each word, (W,): whether it is chosen; 0 similar, 1 random, 2 kept; its entry in the table."""

    chosen: Flags
    kinds: npt.NDArray[np.int8]
    entries: Indices


def choose_correction(
    row: Row, words: Words, priorities: Draws, budgets: Indices, kinds: npt.NDArray[np.int8], table: SimilarWords
) -> Fate:
    """Choose words within both budgets; `kinds` (W,) is what each would become if the table knew all."""
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
    """Ids that the chosen `rows` (m,) become; `random` (m,) are what they become by chance."""
    word = words.of_token[rows]
    kinds = fate.kinds[word]
    out = np.where(kinds == _RANDOM, random, row.ids[rows].astype(np.int64))
    similar = kinds == _SIMILAR
    place = rows - words.first[word]
    out[similar] = table.token(fate.entries[word[similar]], place[similar])
    return out
