"""`best_fit`: pieces of documents packed into sequences by best-fit decreasing (Ding et al. 2024, arXiv:2404.10830).

Only a document longer than L - 2 tokens is cut, into pieces of L - 2 and a remainder. The longest piece first, each
goes into the sequence with the least room that holds it, or opens a new one. So nothing is cut that fits, and there
are hardly more sequences than if all were cut every L tokens. Every token comes once an epoch; sources mix.

Pieces are sorted by counting; the room left is looked up in a bitmap of the sizes that some sequence has free, whose
lowest set bit at or above the need is the best fit. Cost: about 1 us a piece.
"""

import numpy as np

from unmask.data.compose.table import Block, SequenceTable, spread

__all__ = ["compose_best_fit"]


def compose_best_fit(block: Block) -> SequenceTable:
    """Pack pieces of at most L - 2 tokens, each with its [CLS] and [SEP]."""
    room = block.max_length - 2
    parts = -(-block.lengths // room)
    owners = np.repeat(np.arange(len(block)), parts)
    starts = spread(np.zeros(len(block), dtype=np.int64), parts) * room
    lengths = np.minimum(block.lengths[owners] - starts, room)
    decreasing = np.argsort(-lengths, kind="stable")
    bins = np.array(_best_fit((lengths[decreasing] + 2).tolist(), block.max_length), dtype=np.int64)
    together = np.argsort(bins, kind="stable")
    order = decreasing[together]
    firsts = np.searchsorted(bins[together], np.arange(bins.max(initial=-1) + 2))
    return SequenceTable.of(block, owners[order], starts[order], lengths[order], firsts)


def _best_fit(sizes: list[int], capacity: int) -> list[int]:
    """The bin of each piece; bins are numbered as they are opened."""
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    some = 0
    opened = 0
    placed: list[int] = []
    for size in sizes:
        enough = some >> size
        if enough:
            free = size + (enough & -enough).bit_length() - 1
            chosen = with_room[free].pop()
            if not with_room[free]:
                some ^= 1 << free
        else:
            chosen, free = opened, capacity
            opened += 1
        placed.append(chosen)
        with_room[free - size].append(chosen)
        some |= 1 << (free - size)
    return placed
