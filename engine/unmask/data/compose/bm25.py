"""`bm25`: each document is followed by the most similar one (BM25Chunk; Zhao et al. 2024, arXiv:2402.13991).

For each source of a block, its documents arrive in the order of the epoch:

    long       a document longer than L - 2 tokens first gives whole sequences; what is left of it goes on
    buffer     arrivals fill the buffer up to `buffer` (2,048) documents before each sequence
    sequence   the first document of the buffer; then, while there is room, the document of the buffer with the highest
               BM25 score; if no score is above 0, the earliest arrival
    query      `path`: the document just added, so that neighbours form a chain, as in the paper;
               `star`: always the sequence's first document, as in the released code
    overflow   what does not fit of the last document goes back to the end of the buffer

Every token comes exactly once an epoch, in sequences of one source. The released code differs: it adds a document
longer than L again as a whole, gives only some pieces a separator, drops the last, short sequence, and scores by the
statistics of a file instead of the source's documents in the block (`bm25_index`). A tie goes to the earliest arrival.

Cost: about 0.2 ms a document with a buffer of 2,048.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from unmask.data.compose.bm25_index import TermIndex
from unmask.data.compose.sequences import Block, Indices, Sequences
from unmask.limits import SHORTEST

__all__ = ["Bm25"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bm25:
    """Composes sequences of similar documents; `Composition` describes the settings."""

    walk: Literal["path", "star"]
    buffer: int
    query_terms: int

    def __call__(self, block: Block) -> Sequences:
        """Compose the sequences of all sources."""
        pieces: list[tuple[int, int, int]] = []
        firsts = [0]
        for documents in block.by_source():
            group = max(64, min(self.buffer, len(documents)) // 2)
            index = TermIndex(block, documents, query_terms=self.query_terms, group=group)
            for sequence in _Walk(block, documents, index, self.buffer, follow=self.walk == "path").sequences():
                pieces += sequence
                firsts.append(len(pieces))
        owners, starts, lengths = np.array(pieces, dtype=np.int64).reshape(-1, 3).T
        return Sequences.of(block, owners, starts, lengths, firsts)


class _Walk:
    """Walks through the documents of one source with a buffer; documents are numbered by arrival."""

    def __init__(self, block: Block, documents: Indices, index: TermIndex, size: int, *, follow: bool) -> None:
        self._owners = documents.tolist()
        # tokens of each document that no sequence has yet, and all its tokens
        self._rest = block.lengths[documents].tolist()
        self._sizes = list(self._rest)
        self._max_length = block.max_length
        self._index = index
        self._size = size
        self._follow = follow
        self._arrived = 0
        # the documents in the buffer: in their order, as flags, and counted by group of the index
        self._waiting: OrderedDict[int, None] = OrderedDict()
        groups = -(-len(self._owners) // index.group)
        self._here = np.zeros(groups * index.group, dtype=bool)
        self._in_group = np.zeros(groups, dtype=np.int64)

    def sequences(self) -> list[list[tuple[int, int, int]]]:
        """Compose all sequences, as lists of pieces (document of the block, first token, tokens)."""
        made: list[list[tuple[int, int, int]]] = []
        while True:
            made += self._refill()
            if not self._waiting:
                return made
            made.append(self._sequence())

    def _refill(self) -> list[list[tuple[int, int, int]]]:
        """Let documents arrive until the buffer is full; returns the whole sequences that long documents give."""
        whole = []
        while len(self._waiting) < self._size and self._arrived < len(self._owners):
            document = self._arrived
            self._arrived += 1
            while self._rest[document] > self._max_length - 2:
                whole.append([self._take(document, self._max_length - 2)])
            self._put(document)
        return whole

    def _sequence(self) -> list[tuple[int, int, int]]:
        query = document = next(iter(self._waiting))
        free = self._max_length
        sequence = []
        scores: tuple[int, npt.NDArray[np.float64]] | None = None
        while True:
            self._remove(document)
            sequence.append(self._take(document, min(self._rest[document], free - 2)))
            free -= sequence[-1][2] + 2
            if self._rest[document]:
                self._put(document)
                return sequence
            if free < SHORTEST or not self._waiting:
                return sequence
            if self._follow or scores is None:
                groups = np.flatnonzero(self._in_group)
                query = document if self._follow else query
                scores = int(groups[0]) * self._index.group, self._index.scores(query, groups)
            base, found = scores
            here = self._here[base : base + len(found)]
            best = int(np.argmax(np.where(here, found, -1.0)))
            # argmax takes the first of equal scores: the earliest arrival, also where all scores are 0
            document = base + best

    def _take(self, document: int, tokens: int) -> tuple[int, int, int]:
        start = self._sizes[document] - self._rest[document]
        self._rest[document] -= tokens
        return self._owners[document], start, tokens

    def _put(self, document: int) -> None:
        self._waiting[document] = None
        self._here[document] = True
        self._in_group[document // self._index.group] += 1

    def _remove(self, document: int) -> None:
        del self._waiting[document]
        self._here[document] = False
        self._in_group[document // self._index.group] -= 1
