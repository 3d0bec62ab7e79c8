"""A micro-batch as flat NumPy arrays: pieces of documents with their [CLS] and [SEP], in either scope.

    scope `document`   [CLS] p [SEP] [CLS] p [SEP] ...     every piece is a document of its own
    scope `sequence`   [CLS] p [SEP] p [SEP] ...           the pieces of a sequence are one document
    pairs              [CLS] A [SEP] B [SEP]               one document in either scope

`lay_out` gives scope `document`, then tokens are masked, then `join` gives scope `sequence`. So both scopes have the
same masks. N tokens, P pieces, D documents of the micro-batch. Cost: about 15 ns a token.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unmask.batch import Cursor
from unmask.data.compose.sequences import Indices, Text

__all__ = ["BatchArrays", "join", "lay_out"]


class BatchArrays(NamedTuple):
    """A micro-batch as small arrays that travel between processes; they are arguments of `unmask.batch.assemble`.

    Attributes:
        ids: token ids, corrupted where masked, (N,).
        lengths: tokens of each document, (D,).
        keys: of the documents, for dropout, (D,).
        word_starts: True where a token begins a word, (N,).
        segments: 0 or 1 for each token, (N,); None where there are no pairs.
        pair_labels: label of each document, (D,); None where there are no pairs.
        masked, labels: rows of the tokens to predict, and their original ids, (m,) each; None where nothing is masked.
        cursor: where the micro-batch comes from.
    """

    ids: npt.NDArray[Any]
    lengths: Indices
    keys: Indices
    word_starts: npt.NDArray[np.bool_]
    segments: npt.NDArray[np.int8] | None
    pair_labels: Indices | None
    masked: Indices | None
    labels: Indices | None
    cursor: Cursor


def lay_out(
    store: Text,
    documents: Indices,
    starts: Indices,
    lengths: Indices,
    opens: npt.NDArray[np.bool_],
    *,
    cls: int,
    sep: int,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Put [CLS] and [SEP] around pieces.

    Args:
        store: the tokens.
        documents, starts, lengths: of each piece the document, the first token in it and the tokens, (P,) each.
        opens: True for pieces with a [CLS], (P,).
        cls, sep: the two ids.
    Returns:
        Ids and word starts, (N,) each.
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
    # [CLS] and [SEP] are words of their own; so is the rest of a word that a cut leaves at the front of a piece.
    word_starts = ~inside
    word_starts[inside] = begins
    word_starts[ends - 1 - lengths] = True
    return ids, word_starts


def join(arrays: BatchArrays, begins: npt.NDArray[np.bool_]) -> BatchArrays:
    """Join the documents of each sequence to one document, which keeps the first [CLS] only.

    Args:
        arrays: a micro-batch in scope `document`.
        begins: True for documents that begin a sequence, (D,).
    """
    kept = np.ones(arrays.ids.size, dtype=bool)
    kept[(np.cumsum(arrays.lengths) - arrays.lengths)[~begins]] = False
    return arrays._replace(
        ids=arrays.ids[kept],
        lengths=np.add.reduceat(arrays.lengths - ~begins, np.flatnonzero(begins)),
        keys=arrays.keys[begins],
        word_starts=arrays.word_starts[kept],
        # A causal model predicts the first token of a document from the [CLS] before it. If that [CLS] is taken out,
        # the [SEP] before it predicts the token.
        masked=None if arrays.masked is None else (np.cumsum(kept) - 1)[arrays.masked],
    )
