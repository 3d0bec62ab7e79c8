"""`mix` and `uni`: documents one after the other, cut every L tokens (Zhao et al. 2024, arXiv:2402.13991).

    mix   MixChunk: the documents of all sources in one random order
    uni   UniChunk: those of each source by themselves, so that no sequence mixes sources

What a cut leaves of a document opens the next sequence. Every token comes once an epoch: the last sequence of a stream
is shorter, where the published code drops it. A sequence is closed when no token fits beside the [CLS] and [SEP] of a
further piece. How often a source's sequences come is the source's weight. Cost: about 0.5 us a document.
"""

import numpy as np

from unmask.data.compose.table import Block, Indices, SequenceTable
from unmask.data.randomness import STREAMS
from unmask.limits import SHORTEST

__all__ = ["compose_mix", "compose_uni"]


def compose_mix(block: Block) -> SequenceTable:
    """Cut the stream of all documents every L tokens."""
    return _cut(block, [np.argsort(block.draws(STREAMS), kind="stable")])


def compose_uni(block: Block) -> SequenceTable:
    """Cut the stream of each source's documents every L tokens."""
    return _cut(block, block.by_source())


def _cut(block: Block, streams: list[Indices]) -> SequenceTable:
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
    return SequenceTable.of(block, owners, starts, lengths, firsts)
