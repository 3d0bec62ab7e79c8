"""What a call of masking says beside ids: one record, which every backend takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = ["Arguments"]


class Arguments(NamedTuple):
    """The documents, what may be chosen, by which random numbers, and how much of it; as in `unmask_kernels.masking`.

    Attributes:
        word_starts: bool (T,), or None for single tokens.
        special: ids that are never chosen, bool (V,).
        ordinary: ids that a replacement is drawn from, int64 or int32 (O,).
        keys: of selection and replacement, int64 (2,).
        cu_seqlens, names: boundaries of the documents and their keys, int32 (S + 1,), int64 (S,).
        rate: share of a document's tokens to predict.
        split: shares of [MASK], random and unchanged.
        mask_id: id of [MASK].
        capacity: slots, M.
        max_seqlen: static bound on the length of a document.
    """

    word_starts: Tensor | None
    special: Tensor
    ordinary: Tensor
    keys: Tensor
    cu_seqlens: Tensor
    names: Tensor
    rate: float
    split: Sequence[float]
    mask_id: int
    capacity: int
    max_seqlen: int
