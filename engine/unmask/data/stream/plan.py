"""The plan of a shuffle block: which pieces of which documents lie in which of its micro-batches.

    block           documents that are shuffled together (blocks.py)
    sequences       composed from the block's documents (compose/), at most L tokens each, shuffled within the block
    micro-batches   filled in that order; when the next sequence does not fit, the largest of the 64 after it that fit

A micro-batch closes before it exceeds T tokens, M masked tokens or S document slots. Padding takes slots too, in inert
documents of at most L tokens, so the condition on slots is documents + ceil((T - tokens) / L) <= S.

A plan is a function of (seed, epoch, block). Blocks do not influence one another, so any block can be planned without
the blocks before it.

Cost: about 1 us a document for strategy `documents`, and 40 bytes of memory for each piece of the block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unmask.data.compose.by_length import compose_documents
from unmask.data.compose.sequences import Block, Composer, Indices, Sequences, Text, ranges
from unmask.data.compose.stored import StoredSequences
from unmask.data.randomness import PIECES, Uint64Array, philox_4x32, site_key
from unmask.data.stream.blocks import ShuffleBlocks, Source

__all__ = ["BlockPlan", "Capacities", "Planner", "pack_sequences"]

_LOOK_AHEAD = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacities:
    """What a micro-batch holds.

    Attributes:
        tokens: T.
        sequences: S, slots for documents.
        masked: M, slots for masked tokens.
        max_length: L, tokens of a sequence at most.
    """

    tokens: int
    sequences: int
    masked: int
    max_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPlan:
    """The P pieces of a block in the order of its K micro-batches.

    Attributes:
        documents: store index of each piece's document, int64 (P,).
        starts: first token of the piece in its document, int64 (P,).
        lengths: tokens of the piece, without [CLS] and [SEP], int64 (P,).
        keys: of the pieces, uint64 (P,).
        begins: True for pieces that begin a sequence, bool (P,).
        opens: True for pieces with a [CLS] before them, bool (P,); the second segment of a pair has none.
        pair_labels: label of the pair that begins here, -100 elsewhere, int64 (P,); None where there are no pairs.
        bounds: micro-batch k holds pieces bounds[k] : bounds[k + 1], int64 (K + 1,).
    """

    documents: Indices
    starts: Indices
    lengths: Indices
    keys: Uint64Array
    begins: npt.NDArray[np.bool_]
    opens: npt.NDArray[np.bool_]
    pair_labels: Indices | None
    bounds: Indices

    def __len__(self) -> int:
        """Number of micro-batches."""
        return len(self.bounds) - 1


class Planner:
    """Plans the blocks of a split.

    Attributes:
        blocks: number of blocks in an epoch.
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
            lengths: tokens of every document of the store, without special ones, (N,).
            capacities: T, S, M and L.
            mask_counts: masked tokens of a document of n tokens, special ones included, at index n, (L + 1,).
            seed: 64-bit seed of order and shuffle.
            compose: makes sequences of the documents of a block.
            text: the tokens, if `compose` looks at them.
            stored: where sequences are kept that are expensive to compose.
        """
        self._layout = ShuffleBlocks(sources, lengths, tokens=capacities.tokens, seed=seed)
        self._capacities = capacities
        self._mask_counts = mask_counts
        self._seed = seed
        self._compose = compose
        self._text = text
        self._stored = stored
        self.blocks = self._layout.count

    def plan(self, epoch: int, number: int) -> BlockPlan:
        """Plan block `number` in [0, blocks) of an epoch."""
        block, sequences = self.compose(epoch, number)
        shuffled = self._shuffle(epoch, number, sequences.keys[sequences.firsts[:-1]])
        tokens, masked, slots = (cost[shuffled] for cost in sequences.costs(self._mask_counts))
        packed, edges = pack_sequences(tokens, masked, self._capacities, slots)
        order = shuffled[packed]
        sizes = np.diff(sequences.firsts)[order]
        pieces = ranges(sequences.firsts[order], sizes)
        labels = None
        if sequences.pair_labels is not None:
            labels = np.full(len(sequences.owners), -100, dtype=np.int64)
            labels[sequences.firsts[:-1]] = sequences.pair_labels
            labels = labels[pieces]
        return BlockPlan(
            documents=block.documents[sequences.owners[pieces]],
            starts=sequences.starts[pieces],
            lengths=sequences.lengths[pieces],
            keys=sequences.keys[pieces],
            begins=sequences.begins[pieces],
            opens=sequences.opens[pieces],
            pair_labels=labels,
            bounds=np.concatenate([[0], np.cumsum(sizes)])[edges],
        )

    def compose(self, epoch: int, number: int) -> tuple[Block, Sequences]:
        """Compose the sequences of a block, or read them if a process has kept them before."""
        block = self._layout.block(epoch, number, max_length=self._capacities.max_length, text=self._text)
        if self._stored is None:
            return block, self._compose(block)
        return block, self._stored.get(epoch, number, lambda: self._compose(block))

    def _shuffle(self, epoch: int, number: int, keys: Uint64Array) -> Indices:
        """Draw a random order of sequences, (Q,), by the keys (Q,) of their first pieces."""
        low, high = keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32)
        words = philox_4x32(low, high, 0, 0, *site_key(self._seed, PIECES, epoch, number))
        return np.argsort(words[0] << np.uint64(32) | words[1], kind="stable")


def pack_sequences(
    sizes: Indices, masked: Indices, capacities: Capacities, documents: Indices | None = None
) -> tuple[Indices, Indices]:
    """Fill micro-batches with sequences, roughly in the order given.

    Args:
        sizes: tokens of each sequence, special ones included, each at most `capacities.max_length`, (Q,).
        masked: masked tokens of each sequence, (Q,).
        capacities: of a micro-batch.
        documents: document slots that each sequence takes, (Q,). Default: one.
    Returns:
        The sequences in packed order, (Q,), and the bounds of the micro-batches in it, (K + 1,).
    Raises:
        ValueError: a sequence does not fit in an empty micro-batch.
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
        # Room only shrinks, so one walk from the largest sequence down takes each one that fits.
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
