"""`doc_sentences` and `full_sentences`: as many whole consecutive sentences as fit (RoBERTa: Liu et al. 2019,
arXiv:1907.11692, section 4.2).

    doc_sentences    of one document; the last sequence of a document is as short as it is
    full_sentences   across documents, in one random order of all sources, each document with its own [SEP]

A sentence that fits in no sequence is cut evenly. Every token comes once an epoch.
Cost: about 0.3 us a sentence.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from unmask.data.compose.table import Block, Indices, SequenceTable, spread
from unmask.data.randomness import STREAMS

__all__ = ["Sentences", "compose_doc_sentences", "compose_full_sentences"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentences:
    """Where sentences lie: document i has edges[i], which begins with 0 and ends with the document's length."""

    edges: list[list[int]]

    @classmethod
    def of(cls, block: Block, max_length: int) -> "Sentences":
        """The sentences of a block, longer ones cut evenly into parts of at most `max_length` tokens."""
        zeros = np.zeros(len(block), dtype=np.int64)
        begins = np.array(block.require_text().gather_sentence_starts(block.documents, zeros, block.lengths))
        offsets = np.concatenate([[0], np.cumsum(block.lengths)])
        # what stands before a document's first sentence is one too
        begins[offsets[:-1]] = True
        firsts = np.flatnonzero(begins)
        sizes = np.diff(np.append(firsts, offsets[-1]))
        parts = -(-sizes // max_length)
        owner, part = np.repeat(np.arange(firsts.size), parts), spread(np.zeros(firsts.size, dtype=np.int64), parts)
        cuts = firsts[owner] + part * sizes[owner] // parts[owner]
        document = np.searchsorted(offsets, cuts, side="right") - 1
        counts = np.bincount(document, minlength=len(block))
        places = (cuts - offsets[document]).tolist()
        edges, at = [], 0
        for count, length in zip(counts.tolist(), block.lengths.tolist(), strict=True):
            edges.append([*places[at : at + count], length])
            at += count
        return cls(edges=edges)


def compose_doc_sentences(block: Block) -> SequenceTable:
    """Fill sequences with the sentences of one document at a time."""
    return _fill(block, np.arange(len(block)), crossing=False)


def compose_full_sentences(block: Block) -> SequenceTable:
    """Fill sequences with the sentences of one document after the other."""
    return _fill(block, np.argsort(block.draws(STREAMS), kind="stable"), crossing=True)


def _fill(block: Block, order: Indices, *, crossing: bool) -> SequenceTable:
    owners: list[int] = []
    starts: list[int] = []
    lengths: list[int] = []
    firsts = [0]
    free = block.max_length
    edges = Sentences.of(block, block.max_length - 2).edges
    for owner in order.tolist():
        own = edges[owner]
        if owners and not (crossing and own[1] + 2 <= free):
            firsts.append(len(owners))
            free = block.max_length
        start = 0
        for begin, end in pairwise(own):
            if end - start + 2 > free:
                owners.append(owner)
                starts.append(start)
                lengths.append(begin - start)
                firsts.append(len(owners))
                start, free = begin, block.max_length
        owners.append(owner)
        starts.append(start)
        lengths.append(own[-1] - start)
        free -= own[-1] - start + 2
    if owners:
        firsts.append(len(owners))
    return SequenceTable.of(block, owners, starts, lengths, firsts)
