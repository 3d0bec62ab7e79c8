"""Sets of documents of a store that take no memory for each document: sources, and the parts of a split.

    members     the documents of a source in the order of the store: runs of neighbours
    chosen      documents that are listed, or all but those: the held-out ones, and the rest to train on
    selection   the chosen documents of a source: the p-th one, and its rank among all documents of the source

If e_0 < e_1 < ... are the ranks that are left out, e_j - j documents are chosen before e_j. So the p-th chosen one has
the rank p + (number of j with e_j - j <= p), which a binary search finds. The held-out documents are listed, and they
are few.

Cost: 14 bytes for each listed document; 0.1 us to find a document.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Chosen", "LengthCounts", "Members", "Selection"]

_Indices = npt.NDArray[np.int64]
_NONE: _Indices = np.zeros(0, np.int64)


class Chosen(NamedTuple):
    """Documents of a store: those that are listed, or all but those.

    Attributes:
        documents: store indices, ascending, (n,).
        sources: numbers of their sources, (n,).
        lengths: their tokens, (n,).
        all_but: whether these are the ones that are left out.
    """

    documents: _Indices = _NONE
    sources: npt.NDArray[np.integer] = _NONE
    lengths: npt.NDArray[np.integer] = _NONE
    all_but: bool = False

    def others(self) -> "Chosen":
        """Return all documents that are not chosen."""
        return self._replace(all_but=not self.all_but)

    def mask(self, count: int) -> npt.NDArray[np.bool_]:
        """Return (count,) bool: True for the chosen ones of `count` documents."""
        mask = np.full(count, self.all_but)
        mask[self.documents] = not self.all_but
        return mask


class LengthCounts(NamedTuple):
    """How many documents have each length.

    Attributes:
        lengths: tokens of a document, ascending, (K,).
        counts: documents of that length, (K,).
    """

    lengths: _Indices
    counts: _Indices

    @classmethod
    def of(cls, lengths: Any) -> "LengthCounts":
        """Count lengths (n,)."""
        found, counts = np.unique(np.asarray(lengths, np.int64), return_counts=True)
        return cls(found, counts.astype(np.int64))

    @property
    def tokens(self) -> int:
        """The tokens of all documents."""
        return int(self.lengths @ self.counts)

    def without(self, other: "LengthCounts") -> "LengthCounts":
        """Return the counts without those of documents that are counted here too; other lengths are dropped."""
        counts = self.counts.copy()
        counts[np.searchsorted(self.lengths, other.lengths)] -= other.counts
        return LengthCounts(self.lengths[counts > 0], counts[counts > 0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Members:
    """The documents of a source, in R runs of neighbours in the store.

    Attributes:
        firsts: first document of each run, ascending, (R,).
        befores: documents of the source before each run, (R,).
        size: number of documents.
    """

    firsts: _Indices
    befores: _Indices
    size: int

    @classmethod
    def of(cls, documents: _Indices) -> "Members":
        """Return these documents, given by their store indices, ascending."""
        return cls(firsts=documents, befores=np.arange(documents.size), size=documents.size)

    def at(self, ranks: Any) -> _Indices:
        """Return the store index of documents by their ranks in the source."""
        ranks = np.asarray(ranks, np.int64)
        if len(self.firsts) == 1:
            return ranks + self.firsts[0]
        run = np.searchsorted(self.befores, ranks, side="right") - 1
        return np.asarray(self.firsts[run] + (ranks - self.befores[run]))

    def ranks(self, documents: _Indices) -> _Indices:
        """Return the ranks of documents of the source, given by store index."""
        if len(self.firsts) == 1:
            return documents - self.firsts[0]
        run = np.searchsorted(self.firsts, documents, side="right") - 1
        return np.asarray(self.befores[run] + (documents - self.firsts[run]))


class Selection:
    """The chosen documents of a source, in the order of the store.

    Args:
        members: the documents of the source.
        ranks: those that are chosen, by rank, ascending; or those that are not.
        all_but: whether `ranks` are the ones that are left out.

    Attributes:
        size: number of chosen documents.
    """

    def __init__(self, members: Members, ranks: _Indices, *, all_but: bool) -> None:
        self._members = members
        self._all_but = all_but
        # of those that are left out: the chosen ones before each
        self._table = ranks - np.arange(ranks.size) if all_but else ranks
        self.size = members.size - ranks.size if all_but else ranks.size

    def find(self, places: Any) -> tuple[_Indices, _Indices]:
        """Return the store indices and the ranks in the source of the chosen documents at `places` in [0, size)."""
        ranks = np.asarray(places, np.int64)
        if not self._all_but:
            ranks = np.asarray(self._table[ranks])
        elif self._table.size:
            ranks = ranks + np.searchsorted(self._table, ranks, side="right")
        return self._members.at(ranks), ranks

    def documents(self, places: Any) -> _Indices:
        """Return the store indices of the chosen documents at `places` in [0, size)."""
        return self.find(places)[0]
