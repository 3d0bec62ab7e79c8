"""The windows of a pass: which documents lie in which window, in which order.

    turn    = a source's documents in the order of a Feistel permutation, one for each time that it is read
    pass    = from every source as many documents as its weight says, the turns one after the other:
              documents floor(pass w n) to floor((pass + 1) w n) of them, for weight w and n documents
    chunks  = 1,024 documents of a source each; chunk i of c stands at (i + 1/2) / c of the pass, so that sources mix
              in proportion
    window  = a run of chunks: at least 64, and enough for 256 micro-batches on average; or the whole pass

With weight 1 a pass reads a source once; with 2 twice, in two orders; with 1/2 the first half of a turn, and the next
pass the other half. All of it is a function of (seed, pass, window): any window is known without those before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from unmask.data.compose.table import Indices, Text, Window
from unmask.data.randomness import ORDER
from unmask.data.stream.order import Permutation

__all__ = ["CHUNK", "Source", "Windows"]

CHUNK = 1024
_CHUNKS = 64
_BATCHES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The documents of a source that take part: store indices (n,), indices in the source (n,), and its weight."""

    documents: Indices
    ranks: Indices
    weight: Fraction = Fraction(1)


class Windows:
    """Lays out the documents of a split.

    Attributes:
        count: windows of a pass, the same in each, so a window has a number without looking at those before.
    """

    def __init__(self, sources: Sequence[Source], lengths: npt.NDArray[np.integer], *, tokens: int, seed: int) -> None:
        """Lay out the chunks of a pass.

        Args:
            sources: at least one with documents and a weight above 0.
            lengths: content tokens of every document of the store, (N,).
            tokens: T, tokens of a micro-batch.
            seed: 64-bit seed of the order.
        """
        self._sources = [(n, source) for n, source in enumerate(sources) if source.documents.size and source.weight]
        self._lengths = lengths
        self._seed = seed
        most = [ceil(source.weight * source.documents.size) for _, source in self._sources]
        counts = [-(-documents // CHUNK) for documents in most]
        owner = np.repeat(np.arange(len(counts)), counts)
        number = np.concatenate([np.arange(count) for count in counts])
        place = (number + 0.5) / np.repeat(counts, counts)
        order = np.lexsort((owner, place))
        self._chunks = np.stack([owner[order], number[order]], axis=1)
        expected = sum(
            source.weight * int(lengths[source.documents].sum(dtype=np.int64)) for _, source in self._sources
        )
        needed = ceil(Fraction(_BATCHES * tokens * len(self._chunks)) / max(1, expected))
        self.count = max(1, len(self._chunks) // max(_CHUNKS, needed))

    def window(self, pass_: int, number: int, *, max_length: int, text: Text | None = None) -> Window:
        """The documents of window `number` in [0, count) of pass `pass_`, by source; empty ones are left out."""
        first, last = (edge * len(self._chunks) // self.count for edge in (number, number + 1))
        chunks = self._chunks[first:last]
        columns: list[tuple[Indices, Indices, Indices, Indices]] = [(_NONE, _NONE, _NONE, _NONE)]
        for slot, (name, source) in enumerate(self._sources):
            # The chunks of one source stay in order, so those of a window are consecutive.
            own = chunks[chunks[:, 0] == slot, 1]
            if not own.size:
                continue
            n = source.documents.size
            begin, end = (floor(edge * source.weight * n) for edge in (pass_, pass_ + 1))
            places = np.arange(begin + own[0] * CHUNK, min(end, begin + (own[-1] + 1) * CHUNK))
            for turn in range(begin // n, -(-end // n)):
                of_turn = places[places // n == turn] - turn * n
                if of_turn.size:
                    index = Permutation(n, self._seed, ORDER, turn, name)(of_turn)
                    which = np.full(index.size, name), np.full(index.size, turn)
                    columns.append((*which, source.documents[index], source.ranks[index]))
        sources, turns, documents, ranks = (np.concatenate(column) for column in zip(*columns, strict=True))
        lengths = self._lengths[documents].astype(np.int64)
        kept = lengths > 0
        return Window(
            documents=documents[kept],
            lengths=lengths[kept],
            sources=sources[kept],
            turns=turns[kept],
            ranks=ranks[kept],
            max_length=max_length,
            seed=self._seed,
            text=text,
        )


_NONE = np.zeros(0, dtype=np.int64)
