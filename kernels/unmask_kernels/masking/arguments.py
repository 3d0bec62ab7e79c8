"""The records of masking: what the operation takes and returns.

T tokens, S documents, V ids, O ordinary ids, M slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = ["Arguments", "MaskedTokens"]


class Arguments(NamedTuple):
    """What the operation takes.

    Attributes:
        ids: of the tokens, int64 or int32 (T,).
        word_starts: whether a word begins at a token, bool (T,); None chooses single tokens.
        special: ids that are never chosen, bool (V,).
        ordinary: ids that a random replacement is drawn from, int64 or int32 (O,).
        keys: of selection and of replacement, int64 (2,).
        cu_seqlens: first row of each document and the end of the last, int32 (S + 1,).
        document_keys: int64 (S,).
        rate: share of a document's tokens to predict.
        split: shares of [MASK], random and unchanged.
        mask_id: id of [MASK].
        capacity: slots, M.
        max_seqlen: static bound on the length of a document.
    """

    ids: Tensor
    word_starts: Tensor | None
    special: Tensor
    ordinary: Tensor
    keys: Tensor
    cu_seqlens: Tensor
    document_keys: Tensor
    rate: float
    split: Sequence[float]
    mask_id: int
    capacity: int
    max_seqlen: int


class MaskedTokens(NamedTuple):
    """What the operation returns, on the device of ids.

    Attributes:
        ids: corrupted ids, (T,), dtype of ids.
        rows: tokens to predict, int64 (M,), ascending over the used slots; unused slots are 0.
        labels: their original ids, int64 (M,); unused slots are -100.
    """

    ids: Tensor
    rows: Tensor
    labels: Tensor
