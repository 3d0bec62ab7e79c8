"""The plan of a window: which pieces of which documents lie in which micro-batch.

    pass    = every source's documents in the order of a Feistel permutation, cut into chunks of 1,024;
              chunk i of a source's c stands at (i + 1/2) / c of the pass, so sources mix in proportion
    window  = a run of chunks: at least 64, and enough for 256 micro-batches on average; or the whole pass
    pieces  = documents cut evenly into as few parts as fit in L - 2 tokens, each wrapped in [CLS] and [SEP],
              shuffled within the window
    batches = next fit, and when the next piece does not fit, best fit from the 64 after it, until none fits

A micro-batch closes before T tokens, M masked tokens or S documents overflow, where S counts the inert
documents of at most L tokens that its padding needs: documents + ceil((T - tokens) / L) <= S. Every token of
the corpus comes exactly once a pass. All of it is a function of (seed, pass, window): the windows of a pass
have no influence on one another, so any of them can be planned without the ones before it.

Cost: about 1 us a document, and 40 bytes of memory for each piece of the window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unmask.data.order import Permutation
from unmask.data.randomness import ORDER, PIECES, philox_4x32, piece_keys, site_key

__all__ = ["CHUNK", "Capacities", "Planner", "Source", "WindowPlan", "pack_pieces"]

CHUNK = 1024
_CHUNKS = 64
_BATCHES = 256
_LOOK_AHEAD = 64

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacities:
    """What a micro-batch holds: `tokens` T, `sequences` S, `masked` M, and pieces of at most `longest` L."""

    tokens: int
    sequences: int
    masked: int
    longest: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The documents of a source that take part: store indices (n,), and indices in the source (n,)."""

    documents: Indices
    ranks: Indices


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowPlan:
    """The pieces of a window in the order of its micro-batches.

    Attributes:
        documents: store index of each piece's document, int64 (P,).
        starts: first content token of the piece in its document, int64 (P,).
        lengths: content tokens, without [CLS] and [SEP], int64 (P,).
        keys: names of the pieces, uint64 (P,).
        bounds: micro-batch k holds pieces bounds[k] : bounds[k + 1], int64 (K + 1,).
    """

    documents: Indices
    starts: Indices
    lengths: Indices
    keys: npt.NDArray[np.uint64]
    bounds: Indices

    def __len__(self) -> int:
        """Number of micro-batches."""
        return len(self.bounds) - 1


class Planner:
    """Plans windows over the documents of a split."""

    def __init__(
        self,
        sources: Sequence[Source],
        lengths: npt.NDArray[np.integer],
        capacities: Capacities,
        mask_counts: npt.NDArray[np.int64],
        *,
        seed: int,
    ) -> None:
        """Lay out the chunks of a pass.

        Args:
            sources: at least one, with its documents.
            lengths: content tokens of every document of the store, (N,).
            capacities: T, S, M and L.
            mask_counts: masked tokens of a piece of n tokens, specials included, at index n, (L + 1,).
            seed: 64-bit seed of order and shuffle.
        """
        self._sources = [(number, source) for number, source in enumerate(sources) if source.documents.size]
        self._lengths = lengths
        self._capacities = capacities
        self._mask_counts = mask_counts
        self._seed = seed
        counts = [-(-source.documents.size // CHUNK) for _, source in self._sources]
        owner = np.repeat(np.arange(len(counts)), counts)
        number = np.concatenate([np.arange(count) for count in counts])
        place = (number + 0.5) / np.repeat(counts, counts)
        order = np.lexsort((owner, place))
        self._chunks = np.stack([owner[order], number[order]], axis=1)
        self.windows = self._count_windows()

    def _count_windows(self) -> int:
        """Windows of a pass: the same in each, so a window has a number without looking at those before."""
        tokens = sum(int(self._lengths[source.documents].sum(dtype=np.int64)) for _, source in self._sources)
        needed = _BATCHES * self._capacities.tokens * len(self._chunks) / max(1, tokens)
        return max(1, len(self._chunks) // max(_CHUNKS, int(np.ceil(needed))))

    def plan(self, pass_: int, window: int) -> WindowPlan:
        """Plan window `window` in [0, windows) of pass `pass_`."""
        source, document, rank = self._documents(pass_, window)
        lengths = self._lengths[document].astype(np.int64)
        parts = -(-lengths // (self._capacities.longest - 2))
        owner = np.repeat(np.arange(document.size), parts)
        part = np.arange(owner.size) - (np.cumsum(parts) - parts)[owner]
        # Cut evenly: a piece of one token, all that is left of a document, would be a question without a context.
        start = part * lengths[owner] // parts[owner]
        length = (part + 1) * lengths[owner] // parts[owner] - start
        keys = piece_keys(pass_, source[owner], rank[owner], part)
        shuffled = self._shuffle(pass_, window, keys)
        sizes = length[shuffled] + 2
        packed, bounds = pack_pieces(sizes, self._mask_counts[sizes], self._capacities)
        order = shuffled[packed]
        return WindowPlan(
            documents=document[owner[order]],
            starts=start[order],
            lengths=length[order],
            keys=keys[order],
            bounds=bounds,
        )

    def _documents(self, pass_: int, window: int) -> tuple[Indices, Indices, Indices]:
        """Source, store index and index within the source of the documents of a window."""
        first, last = (edge * len(self._chunks) // self.windows for edge in (window, window + 1))
        columns: list[tuple[Indices, Indices, Indices]] = []
        for slot, (number, source) in enumerate(self._sources):
            chunks = self._chunks[first:last]
            # The chunks of one source stay in order, so those of a window are consecutive.
            own = chunks[chunks[:, 0] == slot, 1]
            if not own.size:
                continue
            n = source.documents.size
            permutation = Permutation(n, self._seed, ORDER, pass_, number)
            index = permutation(np.arange(own[0] * CHUNK, min(n, (own[-1] + 1) * CHUNK)))
            columns.append((np.full(index.size, number), source.documents[index], source.ranks[index]))
        source_of, document, rank = (np.concatenate(column) for column in zip(*columns, strict=True))
        return source_of, document, rank

    def _shuffle(self, pass_: int, window: int, keys: npt.NDArray[np.uint64]) -> Indices:
        low, high = keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32)
        words = philox_4x32(low, high, 0, 0, *site_key(self._seed, PIECES, pass_, window))
        return np.argsort(words[0] << np.uint64(32) | words[1], kind="stable")


def pack_pieces(sizes: Indices, masked: Indices, capacities: Capacities) -> tuple[Indices, Indices]:
    """Fill micro-batches with pieces, roughly in the order given.

    Args:
        sizes: tokens of each piece with its specials, (P,), each at most `capacities.longest`.
        masked: masked tokens of each piece, (P,).
    Returns:
        The pieces in packed order (P,), and the bounds of the micro-batches in it (K + 1,).
    """
    size, mask, total = sizes.tolist(), masked.tolist(), len(sizes)
    longest = capacities.longest
    taken = bytearray(total)
    order: list[int] = []
    bounds = [0]
    head = 0
    while head < total:
        free, mask_free, slots = capacities.tokens, capacities.masked, capacities.sequences
        while head < total:
            if not taken[head]:
                n = size[head]
                if n > free or mask[head] > mask_free or slots - 1 < -(-(free - n) // longest):
                    break
                free, mask_free, slots = free - n, mask_free - mask[head], slots - 1
                order.append(head)
            head += 1
        # Room only shrinks, so one walk down the sizes takes again and again the largest piece that fits.
        ahead = [i for i in range(head + 1, min(total, head + 1 + _LOOK_AHEAD)) if size[i] <= free and not taken[i]]
        for i in sorted(ahead, key=size.__getitem__, reverse=True):
            n = size[i]
            if n <= free and mask[i] <= mask_free and slots - 1 >= -(-(free - n) // longest):
                free, mask_free, slots = free - n, mask_free - mask[i], slots - 1
                order.append(i)
                taken[i] = 1
        if len(order) == bounds[-1]:
            raise ValueError(
                f"pack_pieces: a piece of {size[head]} tokens with {mask[head]} masked must fit in an empty "
                f"micro-batch, "
                f"which has {capacities}"
            )
        bounds.append(len(order))
    return np.array(order, dtype=np.int64), np.array(bounds, dtype=np.int64)
