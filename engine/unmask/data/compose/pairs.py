"""`pairs`: [CLS] A [SEP] B [SEP] for next sentence prediction or sentence order.

    nsp   BERT (Devlin et al. 2019, arXiv:1810.04805; create_pretraining_data.py): label 1, B from another document
    sop   ALBERT and MacBERT (Lan et al. 2020, arXiv:1909.11942; Cui et al. 2021): label 1, the two in swapped order

Each document is cut into pairs anew in each epoch, with L - 3 tokens to fill:

    target    = L - 3, or with probability `short_share` (0.1) uniform in [2, L - 3]; drawn once a document
    stretch   = sentences until they have `target` tokens, or the document ends
    A         = the first a sentences of the stretch, a uniform in [1, sentences - 1]; all of a stretch of one sentence
    nsp       : B is the rest of the stretch, or it is random. It is random for a stretch of one sentence, and by a coin
                for any other: sentences of another document from a random one on, until A and B have `target` tokens.
                Ten tries look for another document; a lone document pairs with itself. The sentences of the stretch
                that A did not take then begin the next stretch.
    sop       : B is the rest of the stretch, and a coin swaps the two. A stretch of one sentence is cut at a random
                word; a stretch of a single word is left out.
    truncate  : while A and B exceed L - 3 tokens, the longer one loses a token (B when they are equal), by a coin in
                front or behind

More than half of the nsp pairs are random, as in the published code, and half of the sop pairs are swapped. An epoch
does not hold every token exactly once: truncation loses tokens, and a random B repeats tokens. A sentence longer than
L - 3 is cut evenly first; the published code drops all but L - 3 of its tokens. The other document comes from the same
block.

Building a pair takes an unknown number of draws. They come from SplitMix64 (Steele 2014), which starts from 64 bits
drawn at the document's address, so that the pairs of a document do not depend on other documents.

Cost: about 15 us a pair, 0.5 us a draw.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from unmask.data.compose.sentences import sentence_edges
from unmask.data.compose.sequences import Block, Sequences
from unmask.data.randomness import PAIRS

__all__ = ["Draws", "PairBuilder"]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1

Span = tuple[int, int, int]
"""Document, first token, token after the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairBuilder:
    """Builds the pairs of a block; `Composition` describes the settings."""

    task: Literal["nsp", "sop"]
    short_share: float

    def __call__(self, block: Block) -> Sequences:
        """Build the pairs of all documents; each is a sequence of two pieces."""
        room = block.max_length - 3
        edges = sentence_edges(block, room)
        words = _WordStarts(block) if self.task == "sop" else None
        stretches: list[tuple[int, int]] = []
        spans: list[Span] = []
        labels: list[int] = []
        for owner, state in enumerate(block.draws(PAIRS).tolist()):
            draws = Draws(state)
            target = 2 + draws.below(room - 1) if draws.chance(self.short_share) else room
            own, first = edges[owner], 0
            while first < len(own) - 1:
                last = min(bisect_left(own, own[first] + target, first + 1), len(own) - 1)
                if words is not None:
                    pair = _in_order_or_swapped(owner, own, first, last, words, draws)
                    used = last
                else:
                    pair, used = _next_or_random(owner, edges, first, last, target, draws)
                if pair is not None:
                    stretches.append((owner, own[first]))
                    spans += _truncate(*pair[:2], room, draws)
                    labels.append(pair[2])
                first = used
        owners, starts, ends = np.array(spans, dtype=np.int64).reshape(-1, 3).T
        documents, places = np.array(stretches, dtype=np.int64).reshape(-1, 2).T
        return Sequences(
            owners=owners,
            starts=starts,
            lengths=ends - starts,
            # both segments have the key of the place where their stretch begins
            keys=np.repeat(block.keys(documents, places), 2),
            firsts=2 * np.arange(len(labels) + 1),
            pair_labels=np.array(labels, dtype=np.int64),
        )


class Draws:
    """A sequence of random numbers from a 64-bit state: SplitMix64."""

    def __init__(self, state: int) -> None:
        self._state = state
        self._bits, self._left = 0, 0

    def word(self) -> int:
        """Draw 64 random bits."""
        self._state = (self._state + _GOLDEN) & _MASK64
        x = self._state
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
        return x ^ (x >> 31)

    def below(self, n: int) -> int:
        """Draw a whole number in [0, n), uniform within n / 2**64."""
        return self.word() * n >> 64

    def chance(self, p: float) -> bool:
        """Draw True with probability p."""
        return self.word() < p * 2.0**64

    def coin(self) -> bool:
        """Draw True with probability 1/2; 64 coins take one word."""
        if not self._left:
            self._bits, self._left = self.word(), 64
        heads = self._bits & 1
        self._bits >>= 1
        self._left -= 1
        return heads == 1


class _WordStarts:
    def __init__(self, block: Block) -> None:
        zeros = np.zeros(len(block), dtype=np.int64)
        self._flags: npt.NDArray[np.bool_] = block.require_text().gather(block.documents, zeros, block.lengths)[1]
        self._offsets = np.concatenate([[0], np.cumsum(block.lengths)]).tolist()

    def inside(self, owner: int, start: int, end: int) -> list[int]:
        """Return the places in a document after `start` and before `end` where words begin."""
        at = self._offsets[owner]
        return (np.flatnonzero(self._flags[at + start + 1 : at + end]) + start + 1).tolist()


def _next_or_random(
    owner: int, edges: list[list[int]], first: int, last: int, target: int, draws: Draws
) -> tuple[tuple[Span, Span, int], int]:
    """Choose A and B for nsp from the sentences [first, last); returns both, the label and the sentence after them."""
    own = edges[owner]
    split = first + (1 if last - first == 1 else 1 + draws.below(last - first - 1))
    a = (owner, own[first], own[split])
    if last - first > 1 and not draws.chance(0.5):
        return (a, (owner, own[split], own[last]), 0), last
    tries = (draws.below(len(edges)) for _ in range(10))
    other = next((document for document in tries if document != owner), owner)
    there = edges[other]
    begin = draws.below(len(there) - 1)
    needed = there[begin] + target - (a[2] - a[1])
    end = min(bisect_left(there, needed, begin + 1), len(there) - 1)
    return (a, (other, there[begin], there[end]), 1), split


def _in_order_or_swapped(
    owner: int, own: list[int], first: int, last: int, words: _WordStarts, draws: Draws
) -> tuple[Span, Span, int] | None:
    """Choose A and B for sop from the sentences [first, last); returns them and their label, or None for one word."""
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
    """Drop tokens until A and B fit in `room`: always of the longer one, in front or behind."""
    (_, a_start, a_end), (_, b_start, b_end) = a, b
    for _ in range(a_end - a_start + b_end - b_start - room):
        in_front = draws.coin()
        if a_end - a_start > b_end - b_start:
            a_start, a_end = (a_start + 1, a_end) if in_front else (a_start, a_end - 1)
        else:
            b_start, b_end = (b_start + 1, b_end) if in_front else (b_start, b_end - 1)
    return (a[0], a_start, a_end), (b[0], b_start, b_end)
