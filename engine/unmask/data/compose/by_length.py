"""Strategies that look at the lengths of documents alone: `documents`, `mix`, `uni` and `best_fit`.

    documents   a sequence is a document, or one of the even pieces of a document longer than L - 2 tokens
    mix         MixChunk: the documents of all sources in one random order, cut every L tokens
    uni         UniChunk: the same for each source by itself, so that no sequence mixes sources
    best_fit    pieces of at most L - 2 tokens, packed by best-fit decreasing

`mix` and `uni` are those of Zhao et al. 2024 (arXiv:2402.13991), `best_fit` is that of Ding et al. 2024
(arXiv:2404.10830). Every token comes exactly once an epoch.

`documents` cuts evenly: 511 tokens with room for 510 become 255 and 256, since a piece of one token would be a question
without a context. In `mix` and `uni`, what a cut leaves of a document opens the next sequence. A sequence is closed
when no token fits beside the [CLS] and [SEP] of a further piece. The last sequence of a stream is shorter; the
published code drops it.

`best_fit` cuts only documents longer than L - 2 tokens, into pieces of L - 2 and a remainder. The longest piece comes
first; each goes into the sequence with the least room that holds it, or opens a new one. So hardly more sequences are
needed than if all documents were cut every L tokens. A bitmap tells which amounts of room some sequence has free: its
lowest set bit at or above the need is the best fit.

Cost a document: about 0.1 us for `documents`, 0.5 us for `mix` and `uni`; about 1 us a piece for `best_fit`.
"""

import numpy as np

from unmask.data.compose.sequences import Block, Indices, Sequences, ranges
from unmask.data.randomness import STREAMS
from unmask.limits import SHORTEST

__all__ = ["compose_best_fit", "compose_documents", "compose_mix", "compose_uni"]


def compose_documents(block: Block) -> Sequences:
    """Cut each document into as few pieces as fit, of equal length within one token."""
    parts = -(-block.lengths // (block.max_length - 2))
    owners = np.repeat(np.arange(len(block)), parts)
    part = ranges(0, parts)
    starts = part * block.lengths[owners] // parts[owners]
    lengths = (part + 1) * block.lengths[owners] // parts[owners] - starts
    return Sequences(
        owners=owners,
        starts=starts,
        lengths=lengths,
        keys=block.keys(owners, part),
        firsts=np.arange(owners.size + 1),
    )


def compose_mix(block: Block) -> Sequences:
    """Cut the stream of all documents every L tokens."""
    return _cut(block, [np.argsort(block.draws(STREAMS), kind="stable")])


def compose_uni(block: Block) -> Sequences:
    """Cut the stream of each source's documents every L tokens."""
    return _cut(block, block.by_source())


def _cut(block: Block, streams: list[Indices]) -> Sequences:
    sizes = block.lengths.tolist()
    owners: list[int] = []
    starts: list[int] = []
    lengths: list[int] = []
    firsts = [0]
    for stream in streams:
        free = block.max_length
        for owner in stream.tolist():
            start, size = 0, sizes[owner]
            while start < size:
                if free < SHORTEST:
                    firsts.append(len(owners))
                    free = block.max_length
                taken = min(size - start, free - 2)
                owners.append(owner)
                starts.append(start)
                lengths.append(taken)
                start += taken
                free -= taken + 2
        if len(owners) > firsts[-1]:
            firsts.append(len(owners))
    return Sequences.of(block, owners, starts, lengths, firsts)


def compose_best_fit(block: Block) -> Sequences:
    """Pack pieces of at most L - 2 tokens, each with its [CLS] and [SEP]."""
    room = block.max_length - 2
    parts = -(-block.lengths // room)
    owners = np.repeat(np.arange(len(block)), parts)
    starts = ranges(0, parts) * room
    lengths = np.minimum(block.lengths[owners] - starts, room)
    decreasing = np.argsort(-lengths, kind="stable")
    sequence = np.array(_best_fit((lengths[decreasing] + 2).tolist(), block.max_length), dtype=np.int64)
    together = np.argsort(sequence, kind="stable")
    order = decreasing[together]
    firsts = np.searchsorted(sequence[together], np.arange(sequence.max(initial=-1) + 2))
    return Sequences.of(block, owners[order], starts[order], lengths[order], firsts)


def _best_fit(sizes: list[int], capacity: int) -> list[int]:
    """Choose the sequence of each piece of `sizes` tokens; sequences are numbered as they are opened."""
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    # bit r is set if some sequence has room for exactly r tokens
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
