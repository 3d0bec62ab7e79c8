"""BM25 between the documents of one source in a block, in whole numbers (Robertson and Zaragoza 2009).

    score(q, d) = sum over the terms t of q: round(2**16 idf(t) tf (k1 + 1) / (tf + k1 (1 - b + b len(d) / mean)))
    idf(t)      = ln(1 + (N - df + 0.5) / (df + 0.5)),  k1 = 1.2, b = 0.75

There are N documents; tf counts the term t in d, df the documents with t, len(d) the terms of d. A term is a word: the
tokens from one word start to the next. So no text is needed, and Chinese words are words. Words in more than a tenth of
the documents, and in more than 16, are left out, like stop words in English; there is no stemmer. A query holds the
words of a document, or 300 of them drawn at random where it has more; stop words leave after the draw.

Scores are sums of whole numbers, so neither the order of summation nor the machine changes which document is the best.
Postings are kept by groups of documents in their order of arrival: a query reads the postings of some groups as one
array. Cost: about 0.15 us a token to index.
"""

import numpy as np
import numpy.typing as npt

from unmask.data.compose.sequences import Block, Indices, ranges
from unmask.data.randomness import QUERIES, mix64, philox_4x32, site_key

__all__ = ["K1", "SCALE", "STOP_DOCUMENTS", "STOP_SHARE", "B", "TermIndex"]

K1, B = 1.2, 0.75
SCALE = 1 << 16
STOP_SHARE, STOP_DOCUMENTS = 0.1, 16

_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


class TermIndex:
    """Terms of some documents, and which documents have them.

    Attributes:
        group: documents in a group of postings.
    """

    def __init__(self, block: Block, documents: Indices, *, query_terms: int, group: int) -> None:
        """Index documents of a block.

        Args:
            documents: indices in the block, (N,), in the order of arrival; they are numbered 0 to N - 1 here.
            query_terms: words of a document in its query, at most.
            group: documents in a group.
        """
        self.group = group
        n = len(documents)
        owner, hashes = _words(block, documents)
        _, term = np.unique(hashes, return_inverse=True)
        # (document, term) pairs and how often each occurs
        places, counts = _count(owner, term)
        df = np.bincount(places[:, 1], minlength=int(term.max(initial=-1)) + 1)
        stop = df > max(STOP_SHARE * n, STOP_DOCUMENTS)
        # A term of a single document finds no other one, but counts in the document's length.
        useful = ~stop & (df > 1)
        number = np.cumsum(useful) - 1
        self._terms = int(useful.sum())
        sizes = np.bincount(owner[~stop[term]], minlength=n)
        kept = useful[places[:, 1]]
        # the postings: documents, their useful terms, numbered anew, and how often each occurs
        doc, which, tf = places[kept, 0], number[places[kept, 1]], counts[kept]
        frequency = df[useful][which]
        idf = np.log(1 + (n - frequency + 0.5) / (frequency + 0.5))
        mean = sizes.sum() / max(1, n)
        weight = idf * (tf * (K1 + 1)) / (tf + K1 * (1 - B + B * sizes[doc] / max(mean, 1e-9)))
        # one row of postings for each group and term
        row = (doc // group) * self._terms + which
        order = np.argsort(row, kind="stable")
        self._documents = doc[order].astype(np.int32)
        self._weights = np.rint(weight * SCALE).astype(np.int32)[order]
        groups = -(-n // group)
        self._begins = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=groups * self._terms))])
        asked = _sampled(block, documents, owner, query_terms) & useful[term]
        query, self._query_counts = _count(owner[asked], number[term[asked]])
        self._query_terms = query[:, 1]
        self._query_begins = np.searchsorted(query[:, 0], np.arange(n + 1))

    def scores(self, query: int, groups: Indices) -> npt.NDArray[np.float64]:
        """Score the documents of some groups against document `query`.

        Args:
            query: number of the document that asks.
            groups: numbers of groups, ascending, at least one, (g,).
        Returns:
            Whole numbers in units of 1 / SCALE; entry i is the score of document groups[0] * group + i. The entries
            reach to the end of the last group; documents of a group that is not in `groups` score 0.
        """
        own = slice(self._query_begins[query], self._query_begins[query + 1])
        rows = (groups[:, None] * self._terms + self._query_terms[own]).ravel()
        first, size = self._begins[rows], self._begins[rows + 1] - self._begins[rows]
        some = np.flatnonzero(size)
        taken = ranges(first[some], size[some])
        often = np.tile(self._query_counts[own], len(groups))[some]
        base = int(groups[0]) * self.group
        found = np.bincount(
            self._documents[taken] - base,
            weights=self._weights[taken] * np.repeat(often, size[some]),
            minlength=(int(groups[-1]) + 1) * self.group - base,
        )
        return found.astype(np.float64, copy=False)


def _words(block: Block, documents: Indices) -> tuple[Indices, npt.NDArray[np.uint64]]:
    """Return the document and the hash of each word, (W,) each, in order."""
    lengths = block.lengths[documents]
    ids, begins = block.require_text().gather(block.documents[documents], np.zeros(len(documents), int), lengths)
    begins = np.array(begins)
    offsets = np.cumsum(lengths) - lengths
    begins[offsets] = True
    firsts = np.flatnonzero(begins)
    place = ranges(0, np.diff(firsts, append=ids.size))
    hashed = mix64(np.asarray(ids, dtype=np.uint64) | place.astype(np.uint64) << _32)
    owner = np.searchsorted(offsets, firsts, side="right") - 1
    if not firsts.size:
        return owner, hashed
    return owner, np.add.reduceat(hashed, firsts)


def _count(owner: Indices, term: Indices) -> tuple[Indices, Indices]:
    """Return the different (document, term) pairs, sorted, (U, 2), and how often each occurs, (U,)."""
    width = int(term.max(initial=0)) + 1
    pairs, counts = np.unique(owner * width + term, return_counts=True)
    return np.stack(np.divmod(pairs, width), axis=1), counts


def _sampled(block: Block, documents: Indices, owner: Indices, most: int) -> npt.NDArray[np.bool_]:
    """Tell which words are in the query of their document, (W,): all, or `most` of them drawn at random."""
    sizes = np.bincount(owner, minlength=len(documents))
    chosen = np.ones(len(owner), dtype=bool)
    longer = np.flatnonzero(sizes[owner] > most)
    place = ranges(0, sizes[sizes > most])
    keys = block.keys(documents, np.zeros_like(documents))[owner[longer]]
    draws = philox_4x32(place, 0, keys & _LOW, keys >> _32, *site_key(block.seed, QUERIES))[0]
    ranked = longer[np.lexsort((draws, owner[longer]))]
    chosen[ranked[place >= most]] = False
    return chosen
