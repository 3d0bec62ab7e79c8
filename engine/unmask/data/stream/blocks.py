"""The blocks of an epoch: which documents lie in which block, in which order.

    turn    = a source's documents in the order of a Feistel permutation, one for each time that it is read
    pass    = from every source as many documents as its weight says, the source_epochs one after the other:
              documents floor(epoch w n) to floor((epoch + 1) w n) of them, for weight w and n documents
    runs  = 1,024 documents of a source each; run i of c stands at (i + 1/2) / c of the epoch, so that sources mix
              in proportion
    block  = consecutive runs: at least 64, and enough for 256 micro-batches on average; or the whole epoch

With weight 1 an epoch reads a source once; with 2 twice, in two orders; with 1/2 the first half of a turn, and the next
pass the other half. All of it is a function of (seed, epoch, block): any block is known without those before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from unmask.data.compose.sequences import Block, Indices, Text
from unmask.data.randomness import ORDER
from unmask.data.stream.order import Permutation

__all__ = ["RUN", "ShuffleBlocks", "Source"]

RUN = 1024
_RUNS = 64
_BATCHES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The documents of a source that take part: store indices (n,), indices in the source (n,), and its weight."""

    documents: Indices
    ranks: Indices
    weight: Fraction = Fraction(1)


class ShuffleBlocks:
    """Lays out the documents of a split.

    Attributes:
        count: blocks of an epoch, the same in each, so a block has a number without looking at those before.
    """

    def __init__(self, sources: Sequence[Source], lengths: npt.NDArray[np.integer], *, tokens: int, seed: int) -> None:
        """Lay out the runs of an epoch.

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
        counts = [-(-documents // RUN) for documents in most]
        owner = np.repeat(np.arange(len(counts)), counts)
        number = np.concatenate([np.arange(count) for count in counts])
        place = (number + 0.5) / np.repeat(counts, counts)
        order = np.lexsort((owner, place))
        self._runs = np.stack([owner[order], number[order]], axis=1)
        expected = sum(
            source.weight * int(lengths[source.documents].sum(dtype=np.int64)) for _, source in self._sources
        )
        needed = ceil(Fraction(_BATCHES * tokens * len(self._runs)) / max(1, expected))
        self.count = max(1, len(self._runs) // max(_RUNS, needed))

    def block(self, epoch: int, number: int, *, max_length: int, text: Text | None = None) -> Block:
        """The documents of block `number` in [0, count) of epoch `epoch`, by source; empty ones are left out."""
        first, last = (edge * len(self._runs) // self.count for edge in (number, number + 1))
        runs = self._runs[first:last]
        columns: list[tuple[Indices, Indices, Indices, Indices]] = [(_NONE, _NONE, _NONE, _NONE)]
        for slot, (name, source) in enumerate(self._sources):
            # The runs of one source stay in order, so those of a block are consecutive.
            own = runs[runs[:, 0] == slot, 1]
            if not own.size:
                continue
            n = source.documents.size
            begin, end = (floor(edge * source.weight * n) for edge in (epoch, epoch + 1))
            places = np.arange(begin + own[0] * RUN, min(end, begin + (own[-1] + 1) * RUN))
            for turn in range(begin // n, -(-end // n)):
                of_turn = places[places // n == turn] - turn * n
                if of_turn.size:
                    index = Permutation(n, self._seed, ORDER, turn, name)(of_turn)
                    which = np.full(index.size, name), np.full(index.size, turn)
                    columns.append((*which, source.documents[index], source.ranks[index]))
        sources, source_epochs, documents, ranks = (np.concatenate(column) for column in zip(*columns, strict=True))
        lengths = self._lengths[documents].astype(np.int64)
        kept = lengths > 0
        return Block(
            documents=documents[kept],
            lengths=lengths[kept],
            sources=sources[kept],
            source_epochs=source_epochs[kept],
            ranks=ranks[kept],
            max_length=max_length,
            seed=self._seed,
            text=text,
        )


_NONE = np.zeros(0, dtype=np.int64)
