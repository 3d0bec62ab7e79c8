"""What a call of embedding says beside ids and parameters: one record, which backends take in both directions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Arguments"]


class Arguments(NamedTuple):
    """Where the tokens stand, how the norm is taken, what is dropped, and what comes out.

    Attributes:
        places, row_keys, cu_seqlens, order: lists of `Documents`, int64 (T,), int64 (T,), int32 (S + 1,), int32 (S,).
        segments: int64 or int32 (T,), or None for segment 0 everywhere.
        key: of the random stream, scalar int64; None without dropout.
        eps: added to the variance.
        p: probability of dropping an element of the normalised rows, in [0, 1).
        dtype: of the result.
    """

    places: Tensor
    segments: Tensor | None
    row_keys: Tensor
    cu_seqlens: Tensor
    order: Tensor
    key: Tensor | None
    eps: float
    p: float
    dtype: torch.dtype
