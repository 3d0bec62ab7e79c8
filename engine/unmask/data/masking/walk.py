"""N-grams and spans of whole words: a walk cuts each run of words into groups, which are chosen as one.

    from the first word of a run:  n ~ law;  the next n words, or what is left of the run, are a group;  go behind it
    law of `ngram` = 1, 2, 3, 4 words with 40, 30, 20, 10 %           (MacBERT: Cui et al. 2021, arXiv:1906.08101)
    law of `span`  = Geometric(0.2) on 1..10, renormalised, 3.8 words (SpanBERT: Joshi et al. 2020, arXiv:1907.10529)

A run is a stretch of words without a special token, so a group never crosses a [SEP]. n is drawn at the first token of
the word where the walk stands. A word's priority is that of the first token of its group: the words of a group are
visited one after the other, and the last group is shortened to the words that the budget still takes. SpanBERT's own
code draws spans at random places, where they may overlap; here the walk keeps them apart, so that every token has the
same chance and lengths are those of the law.

Cost: about 60 ns a word: the groups' heads are found by doubling the jumps, in log2(words) sweeps.
"""

from collections.abc import Sequence

import numpy as np

from unmask.data.masking.row import Flags, Indices
from unmask.data.masking.row import Words as Draws
from unmask.data.masking.words import Words

__all__ = ["NGRAM", "SPAN", "heads_of"]

NGRAM = (0.4, 0.3, 0.2, 0.1)
_GEOMETRIC = [0.2 * 0.8**n for n in range(10)]
SPAN = tuple(share / sum(_GEOMETRIC) for share in _GEOMETRIC)


def heads_of(words: Words, draws: Draws, law: Sequence[float]) -> Indices:
    """Find the first word of each word's group, (W,).

    Args:
        words: of a row; a word that is no candidate is a group of its own.
        draws: a random number at each word, (W,), below 2**32.
        law: shares of groups of 1, 2, ... words.
    """
    count = words.first.size
    edges = np.round(2.0**32 * np.cumsum(law)[:-1]).astype(np.uint64)
    sizes = 1 + np.searchsorted(edges, draws, side="right")
    sizes[~words.candidate] = 1
    place = np.arange(count)
    opens = _opens_run(words)
    bounds = np.append(np.flatnonzero(opens), count)
    end = bounds[np.cumsum(opens)]
    # one place behind the last word, where every walk ends
    jump = np.append(np.minimum(place + sizes, end), count)
    reached = np.append(opens, True)
    seen = 0
    while (number := int(np.count_nonzero(reached))) != seen:
        seen = number
        reached[jump[reached]] = True
        jump = jump[jump]
    return np.maximum.accumulate(np.where(reached[:-1], place, 0))


def _opens_run(words: Words) -> Flags:
    """Whether a word is the first of a run of candidates; others are runs of one."""
    joins = np.zeros(words.first.size, dtype=bool)
    joins[1:] = words.candidate[1:] & words.candidate[:-1] & (words.piece[1:] == words.piece[:-1])
    return ~joins
