"""`pairs`: [CLS] A [SEP] B [SEP] for next sentence prediction or sentence order.

    nsp   BERT (Devlin et al. 2019, arXiv:1810.04805; create_pretraining_data.py): label 1, B from another document
    sop   ALBERT and MacBERT (Lan et al. 2020, arXiv:1909.11942; Cui et al. 2021): label 1, the two in swapped order

For each document of an epoch, anew in each epoch, with L - 3 tokens to fill:

    target  = L - 3, or with probability `short_share` (0.1) uniform in [2, L - 3]; once a document
    chunk   = sentences until they have `target` tokens, or the document ends
    A       = its first a sentences, a uniform in [1, sentences - 1]; all of a chunk of one sentence
    nsp     : a chunk of one sentence, or by a coin any other: B is taken from another document (ten tries to hit one;
              a lone document pairs with itself), from a random sentence on, until A and B have `target` tokens; the
              sentences of the chunk that A did not take are put back and begin the next chunk. Else B is the rest.
    sop     : B is the rest; a coin swaps the two. A chunk of one sentence is cut at a random word; a single word is
              left out.
    truncate: while A and B exceed L - 3, the longer loses a token (B when they are equal), by a coin in front or behind

So more than half of the nsp pairs are random, as in the published code, and half of the sop pairs are swapped. Tokens
lost by truncation and those of a random B are why an epoch does not hold every token exactly once. A sentence longer
than L - 3 is cut evenly first; the published code would drop all but L - 3 of its tokens. The other documents are
those of the block. Cost: about 15 us a pair.
"""

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from unmask.data.compose.composition import Composition
from unmask.data.compose.draws import Draws
from unmask.data.compose.sentences import Sentences
from unmask.data.compose.table import Block, SequenceTable
from unmask.data.randomness import PAIRS

__all__ = ["PairBuilder"]

Span = tuple[int, int, int]
"""Document, first token, token after the last."""


class PairBuilder:
    """Builds the pairs of a block."""

    def __init__(self, composition: Composition) -> None:
        self._sop = composition.pair_task == "sop"
        self._short_share = composition.short_share

    def __call__(self, block: Block) -> SequenceTable:
        """The pairs of all documents, each a sequence of two pieces."""
        room = block.max_length - 3
        edges = Sentences.of(block, room).edges
        words = _WordStarts(block) if self._sop else None
        chunks: list[tuple[int, int]] = []
        spans: list[Span] = []
        labels: list[int] = []
        for owner, state in enumerate(block.draws(PAIRS).tolist()):
            draws = Draws(state)
            target = 2 + draws.below(room - 1) if draws.chance(self._short_share) else room
            own, first = edges[owner], 0
            while first < len(own) - 1:
                last = min(bisect_left(own, own[first] + target, first + 1), len(own) - 1)
                if words is not None:
                    pair = _in_order_or_swapped(owner, own, first, last, words, draws)
                    used = last
                else:
                    pair, used = _next_or_random(owner, edges, first, last, target, draws)
                if pair is not None:
                    chunks.append((owner, own[first]))
                    spans += _truncate(*pair[:2], room, draws)
                    labels.append(pair[2])
                first = used
        owners, starts, ends = np.array(spans, dtype=np.int64).reshape(-1, 3).T
        named = np.array(chunks, dtype=np.int64).reshape(-1, 2)
        return SequenceTable(
            owners=owners,
            starts=starts,
            lengths=ends - starts,
            keys=np.repeat(block.keys(named[:, 0], named[:, 1]), 2),
            firsts=2 * np.arange(len(labels) + 1),
            pair_labels=np.array(labels, dtype=np.int64),
        )


class _WordStarts:
    """Where words begin in the documents of a block."""

    def __init__(self, block: Block) -> None:
        zeros = np.zeros(len(block), dtype=np.int64)
        self._flags: npt.NDArray[np.bool_] = block.require_text().gather(block.documents, zeros, block.lengths)[1]
        self._offsets = np.concatenate([[0], np.cumsum(block.lengths)]).tolist()

    def inside(self, owner: int, start: int, end: int) -> list[int]:
        """Word starts of a document after `start` and before `end`."""
        at = self._offsets[owner]
        found: list[int] = (np.flatnonzero(self._flags[at + start + 1 : at + end]) + start + 1).tolist()
        return found


def _next_or_random(
    owner: int, edges: list[list[int]], first: int, last: int, target: int, draws: Draws
) -> tuple[tuple[Span, Span, int], int]:
    """A and B of the sentences [first, last) of a document with their label, and the first sentence not used."""
    own = edges[owner]
    split = first + (1 if last - first == 1 else 1 + draws.below(last - first - 1))
    a = (owner, own[first], own[split])
    if last - first > 1 and not draws.chance(0.5):
        return (a, (owner, own[split], own[last]), 0), last
    other = owner
    for _ in range(10):
        other = draws.below(len(edges))
        if other != owner:
            break
    there = edges[other]
    begin = draws.below(len(there) - 1)
    needed = there[begin] + target - (a[2] - a[1])
    end = min(bisect_left(there, needed, begin + 1), len(there) - 1)
    return (a, (other, there[begin], there[end]), 1), split


def _in_order_or_swapped(
    owner: int, own: list[int], first: int, last: int, words: _WordStarts, draws: Draws
) -> tuple[Span, Span, int] | None:
    """The two parts of the sentences [first, last) of a document, and 1 if they are swapped; None for one word."""
    if last - first > 1:
        middle = own[first + 1 + draws.below(last - first - 1)]
    else:
        places = words.inside(owner, own[first], own[last])
        if not places:
            return None
        middle = places[draws.below(len(places))]
    a, b = (owner, own[first], middle), (owner, middle, own[last])
    return (b, a, 1) if draws.chance(0.5) else (a, b, 0)


def _truncate(a: Span, b: Span, room: int, draws: Draws) -> tuple[Span, Span]:
    """Take tokens away until the two fit: always from the longer one, in front or behind."""
    (_, a_start, a_end), (_, b_start, b_end) = a, b
    for _ in range(a_end - a_start + b_end - b_start - room):
        in_front = draws.coin()
        if a_end - a_start > b_end - b_start:
            a_start, a_end = (a_start + 1, a_end) if in_front else (a_start, a_end - 1)
        else:
            b_start, b_end = (b_start + 1, b_end) if in_front else (b_start, b_end - 1)
    return (a[0], a_start, a_end), (b[0], b_start, b_end)
