"""`doc_sentences` and `full_sentences`: as many whole consecutive sentences as fit (RoBERTa: Liu et al. 2019,
arXiv:1907.11692, section 4.2).

    doc_sentences    of one document; the last sequence of a document is as short as its rest
    full_sentences   across documents, in one random order of all sources, each document with its own [SEP]

A sentence that fits in no sequence is cut evenly. Every token comes exactly once an epoch.
Cost: about 0.3 us a sentence.
"""

from itertools import pairwise

import numpy as np

from unmask.data.compose.sequences import Block, Indices, Sequences, ranges
from unmask.data.randomness import STREAMS

__all__ = ["compose_doc_sentences", "compose_full_sentences", "sentence_edges"]


def compose_doc_sentences(block: Block) -> Sequences:
    """Fill sequences with the sentences of one document at a time."""
    return _fill(block, np.arange(len(block)), crossing=False)


def compose_full_sentences(block: Block) -> Sequences:
    """Fill sequences with the sentences of one document after the other."""
    return _fill(block, np.argsort(block.draws(STREAMS), kind="stable"), crossing=True)


def _fill(block: Block, order: Indices, *, crossing: bool) -> Sequences:
    owners: list[int] = []
    starts: list[int] = []
    lengths: list[int] = []
    firsts = [0]
    free = block.max_length
    edges = sentence_edges(block, block.max_length - 2)
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
    return Sequences.of(block, owners, starts, lengths, firsts)


def sentence_edges(block: Block, max_length: int) -> list[list[int]]:
    """Find the sentences of a block; longer ones are cut evenly into parts of at most `max_length` tokens.

    Returns:
        For each document the places where a sentence begins, the first is 0, and then the document's length.
    """
    zeros = np.zeros(len(block), dtype=np.int64)
    begins = np.array(block.require_text().gather_sentence_starts(block.documents, zeros, block.lengths))
    offsets = np.concatenate([[0], np.cumsum(block.lengths)])
    # the tokens before a document's first sentence start are a sentence too
    begins[offsets[:-1]] = True
    firsts = np.flatnonzero(begins)
    sizes = np.diff(np.append(firsts, offsets[-1]))
    parts = -(-sizes // max_length)
    owner, part = np.repeat(np.arange(firsts.size), parts), ranges(0, parts)
    cuts = firsts[owner] + part * sizes[owner] // parts[owner]
    document = np.searchsorted(offsets, cuts, side="right") - 1
    counts = np.bincount(document, minlength=len(block))
    places = (cuts - offsets[document]).tolist()
    edges, at = [], 0
    for count, length in zip(counts.tolist(), block.lengths.tolist(), strict=True):
        edges.append([*places[at : at + count], length])
        at += count
    return edges
