"""The plan of a block: which sequences lie in which micro-batch.

    block    = documents of an epoch (blocks.py)
    sequences = what a strategy composes of them (compose/), at most L tokens each, shuffled within the block
    batches   = next fit, and when the next sequence does not fit, best fit from the 64 after it, until none fits

A micro-batch closes before T tokens, M masked tokens or S documents overflow, where S counts the inert
documents of at most L tokens that its padding needs: documents + ceil((T - tokens) / L) <= S. All of it is a
function of (seed, epoch, block): the blocks of an epoch have no influence on one another, so any of them can be
planned without the ones before it.

Cost: about 1 us a document for `documents`, and 40 bytes of memory for each piece of the block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unmask.data.compose.by_length import compose_documents
from unmask.data.compose.sequences import Block, Composer, Indices, Sequences, Text, ranges
from unmask.data.compose.stored import StoredSequences
from unmask.data.randomness import PIECES, philox_4x32, site_key
from unmask.data.stream.blocks import ShuffleBlocks, Source

__all__ = ["BlockPlan", "Capacities", "Planner", "pack_sequences"]

_LOOK_AHEAD = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacities:
    """What a micro-batch holds: `tokens` T, `sequences` S, `masked` M, and sequences of at most `max_length` L."""

    tokens: int
    sequences: int
    masked: int
    max_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPlan:
    """The pieces of a block in the order of its micro-batches.

    Attributes:
        documents: store index of each piece's document, int64 (F,).
        starts: first content token of the piece in its document, int64 (F,).
        lengths: content tokens, without [CLS] and [SEP], int64 (F,).
        keys: names of the pieces, uint64 (F,).
        begins: pieces that begin a sequence, bool (F,).
        opens: pieces with a [CLS] before them, bool (F,); the second segment of a pair has none.
        pair_labels: label of the pair that begins here, int64 (F,), -100 elsewhere; None: no pairs.
        bounds: micro-batch k holds pieces bounds[k] : bounds[k + 1], int64 (K + 1,).
    """

    documents: Indices
    starts: Indices
    lengths: Indices
    keys: npt.NDArray[np.uint64]
    begins: npt.NDArray[np.bool_]
    opens: npt.NDArray[np.bool_]
    pair_labels: Indices | None
    bounds: Indices

    def __len__(self) -> int:
        """Number of micro-batches."""
        return len(self.bounds) - 1


class Planner:
    """Plans blocks over the documents of a split.

    Attributes:
        blocks: number of blocks in an epoch.
        stored: whether the sequences of a block are kept.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        lengths: npt.NDArray[np.integer],
        capacities: Capacities,
        mask_counts: npt.NDArray[np.int64],
        *,
        seed: int,
        compose: Composer = compose_documents,
        text: Text | None = None,
        stored: StoredSequences | None = None,
    ) -> None:
        """Lay out the blocks of an epoch.

        Args:
            sources: at least one, with its documents.
            lengths: content tokens of every document of the store, (N,).
            capacities: T, S, M and L.
            mask_counts: masked tokens of a document of n tokens, specials included, at index n, (L + 1,).
            seed: 64-bit seed of order and shuffle.
            compose: what makes sequences of documents.
            text: the tokens, where `compose` looks at them.
            stored: where sequences are kept that are expensive to compose.
        """
        self._layout = ShuffleBlocks(sources, lengths, tokens=capacities.tokens, seed=seed)
        self._capacities = capacities
        self._mask_counts = mask_counts
        self._seed = seed
        self._compose = compose
        self._text = text
        self._tables = stored
        self.stored = stored is not None
        self.blocks = self._layout.count

    def plan(self, epoch: int, block: int) -> BlockPlan:
        """Plan block `block` in [0, blocks) of epoch `epoch`."""
        documents, table = self._sequences(epoch, block)
        shuffled = self._shuffle(epoch, block, table.keys[table.firsts[:-1]])
        tokens, masked, slots = (cost[shuffled] for cost in table.costs(self._mask_counts))
        packed, edges = pack_sequences(tokens, masked, self._capacities, slots)
        order = shuffled[packed]
        sizes = np.diff(table.firsts)[order]
        pieces = ranges(table.firsts[order], sizes)
        labels = None
        if table.pair_labels is not None:
            labels = np.full(len(table.owners), -100, dtype=np.int64)
            labels[table.firsts[:-1]] = table.pair_labels
            labels = labels[pieces]
        return BlockPlan(
            documents=documents.documents[table.owners[pieces]],
            starts=table.starts[pieces],
            lengths=table.lengths[pieces],
            keys=table.keys[pieces],
            begins=table.begins[pieces],
            opens=table.opens[pieces],
            pair_labels=labels,
            bounds=np.concatenate([[0], np.cumsum(sizes)])[edges],
        )

    def compose(self, epoch: int, block: int) -> None:
        """Compose a block, if nobody did, and keep its sequences."""
        self._sequences(epoch, block)

    def forget(self, epoch: int, block: int) -> None:
        """Remove the sequences kept of a block."""
        if self._tables is not None:
            self._tables.forget(epoch, block)

    def _sequences(self, epoch: int, block: int) -> tuple[Block, Sequences]:
        documents = self._layout.block(epoch, block, max_length=self._capacities.max_length, text=self._text)
        if self._tables is None:
            return documents, self._compose(documents)
        return documents, self._tables.get(epoch, block, lambda: self._compose(documents))

    def _shuffle(self, epoch: int, block: int, keys: npt.NDArray[np.uint64]) -> Indices:
        low, high = keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32)
        words = philox_4x32(low, high, 0, 0, *site_key(self._seed, PIECES, epoch, block))
        return np.argsort(words[0] << np.uint64(32) | words[1], kind="stable")


def pack_sequences(
    sizes: Indices, masked: Indices, capacities: Capacities, documents: Indices | None = None
) -> tuple[Indices, Indices]:
    """Fill micro-batches with sequences, roughly in the order given.

    Args:
        sizes: tokens of each sequence with its specials, (P,), each at most `capacities.max_length`.
        masked: masked tokens of each sequence, (P,).
        documents: document slots that each sequence takes, (P,). Default: one.
    Returns:
        The sequences in packed order (P,), and the bounds of the micro-batches in it (K + 1,).
    """
    size, mask, total = sizes.tolist(), masked.tolist(), len(sizes)
    slot = [1] * total if documents is None else documents.tolist()
    max_length = capacities.max_length
    taken = bytearray(total)
    order: list[int] = []
    bounds = [0]
    head = 0
    while head < total:
        free, mask_free, slots = capacities.tokens, capacities.masked, capacities.sequences
        while head < total:
            if not taken[head]:
                n = size[head]
                if n > free or mask[head] > mask_free or slots - slot[head] < -(-(free - n) // max_length):
                    break
                free, mask_free, slots = free - n, mask_free - mask[head], slots - slot[head]
                order.append(head)
            head += 1
        # Room only shrinks, so one walk down the sizes takes again and again the largest sequence that fits.
        ahead = [i for i in range(head + 1, min(total, head + 1 + _LOOK_AHEAD)) if size[i] <= free and not taken[i]]
        for i in sorted(ahead, key=size.__getitem__, reverse=True):
            n = size[i]
            if n <= free and mask[i] <= mask_free and slots - slot[i] >= -(-(free - n) // max_length):
                free, mask_free, slots = free - n, mask_free - mask[i], slots - slot[i]
                order.append(i)
                taken[i] = 1
        if len(order) == bounds[-1]:
            raise ValueError(
                f"pack_sequences: a sequence of {size[head]} tokens, {mask[head]} of them masked, in {slot[head]} "
                f"documents must fit in an empty micro-batch, which has {capacities}"
            )
        bounds.append(len(order))
    return np.array(order, dtype=np.int64), np.array(bounds, dtype=np.int64)
