"""The records of embedding: what its two directions take and return.

T tokens in S documents, D columns, tables of V words, P positions and N segments. *Wide* is the accumulation dtype of
the result: fp32, or fp64 for fp64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Arguments", "BackwardArguments", "Gradients", "Results"]


class Arguments(NamedTuple):
    """What the forward takes, as `embedding` documents it.

    Tables (V, D), (P, D), (N, D), weight and bias (D,) are wide. Without dropout, key is None. Of `Documents` there are
    positions and row_keys, int64 (T,), cu_seqlens, int32 (S + 1,), and order, int32 (S,).
    """

    ids: Tensor
    segments: Tensor | None
    positions: Tensor
    row_keys: Tensor
    cu_seqlens: Tensor
    order: Tensor
    word: Tensor
    position: Tensor
    segment: Tensor
    weight: Tensor
    bias: Tensor
    key: Tensor | None
    eps: float
    p: float
    dtype: torch.dtype


class Results(NamedTuple):
    """What the forward returns.

    Attributes:
        y: (T, D) in the dtype asked for.
        mean, rstd: of each row, wide (T,).
        keep: what dropout keeps: bool (T, D) from torch, a bitmask from Triton (`row_layout`); empty without dropout.
    """

    y: Tensor
    mean: Tensor
    rstd: Tensor
    keep: Tensor


class BackwardArguments(NamedTuple):
    """What the backward takes: the gradient of y, (T, D) in the dtype of y, and what the forward took and returned.

    h is not saved: the backward gathers and adds again.
    """

    dy: Tensor
    ids: Tensor
    segments: Tensor | None
    positions: Tensor
    cu_seqlens: Tensor
    order: Tensor
    word: Tensor
    position: Tensor
    segment: Tensor
    weight: Tensor
    mean: Tensor
    rstd: Tensor
    keep: Tensor
    p: float


class Gradients(NamedTuple):
    """What the backward returns, dense and wide, in the shapes of the parameters."""

    dword: Tensor
    dposition: Tensor
    dsegment: Tensor
    dweight: Tensor
    dbias: Tensor
