"""A micro-batch as flat NumPy arrays: pieces of documents with their [CLS] and [SEP], in either scope.

    document scope   [CLS] f [SEP] [CLS] f [SEP] ...     every piece is a document of its own
    sequence scope   [CLS] f [SEP] f [SEP] ...           the pieces of a sequence are one document
    pairs            [CLS] A [SEP] B [SEP]               one document, in either scope

Masking comes between `lay_out`, which gives document scope, and `join`: so both scopes have the same masks.
N tokens, F pieces, D documents. Cost: about 15 ns a token.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from unmask.batch import Cursor

__all__ = ["Flat", "Gathers", "join", "lay_out"]


class Gathers(Protocol):
    """A token store."""

    def gather(self, documents: Any, starts: Any, lengths: Any) -> tuple[Any, Any]: ...


class Flat(NamedTuple):
    """A micro-batch as NumPy arrays, to travel between processes; `Stream.assemble` completes it."""

    ids: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    word_starts: npt.NDArray[np.bool_]
    segments: npt.NDArray[np.int8] | None
    pair_labels: npt.NDArray[np.int64] | None
    rows: npt.NDArray[np.int64] | None
    labels: npt.NDArray[np.int64] | None
    cursor: Cursor


def lay_out(
    store: Gathers,
    documents: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    opens: npt.NDArray[np.bool_],
    *,
    cls: int,
    sep: int,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Ids and word starts, (N,) each, of pieces with their [SEP] and, where one opens a document, its [CLS].

    Args:
        store: the tokens.
        documents, starts, lengths: the pieces, (F,) each.
        opens: those with a [CLS], (F,).
        cls, sep: the two ids.
    """
    content, begins = store.gather(documents, starts, lengths)
    sizes = lengths + 1 + opens
    ends = np.cumsum(sizes)
    first = (ends - sizes)[opens]
    inside = np.ones(ends[-1], dtype=bool)
    inside[first] = False
    inside[ends - 1] = False
    ids = np.empty(ends[-1], dtype=content.dtype)
    ids[inside] = content
    ids[first] = cls
    ids[ends - 1] = sep
    # [CLS] and [SEP] are words of their own, and so is what a cut leaves at the front of a piece.
    word_starts = ~inside
    word_starts[inside] = begins
    word_starts[ends - 1 - lengths] = True
    return ids, word_starts


def join(flat: Flat, begins: npt.NDArray[np.bool_]) -> Flat:
    """The documents of each sequence as one, which has the first [CLS] only; `begins` are the documents (D,)
    that begin a sequence.
    """
    kept = np.ones(flat.ids.size, dtype=bool)
    kept[(np.cumsum(flat.lengths) - flat.lengths)[~begins]] = False
    return flat._replace(
        ids=flat.ids[kept],
        lengths=np.add.reduceat(flat.lengths - ~begins, np.flatnonzero(begins)),
        keys=flat.keys[begins],
        word_starts=flat.word_starts[kept],
        # What a [CLS] that goes was to predict, a causal model's first token of a document, the [SEP] before it does.
        rows=None if flat.rows is None else (np.cumsum(kept) - 1)[flat.rows],
    )
