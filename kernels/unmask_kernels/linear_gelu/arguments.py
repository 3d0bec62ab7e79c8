"""The records of linear_gelu: what its two directions take and return.

T tokens; D columns of x; N rows of the weight; F columns of y: N, or N / 2 where gated. *Wide* is the accumulation
dtype: fp32, or fp64 for fp64 activations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Arguments", "BackwardArguments", "Gradients", "Results"]


class Arguments(NamedTuple):
    """What the forward takes, as `linear_gelu` documents it; bias is wide.

    Attributes:
        weight: (N, D), any float dtype. Backends do not read it: it is here because it gets the gradient.
        narrow: (N, D), the weight in the dtype of x.
        with_z: whether a backward will need z.
    """

    x: Tensor
    weight: Tensor
    narrow: Tensor
    bias: Tensor | None
    activation: str
    weight_dtype: torch.dtype
    with_z: bool


class Results(NamedTuple):
    """What the forward returns.

    Attributes:
        y: (T, F) in the dtype of x.
        z: x weight^T without the bias, (T, N) in the dtype of x; empty unless `with_z`, (0,).
    """

    y: Tensor
    z: Tensor


class BackwardArguments(NamedTuple):
    """What the backward takes: the gradient of y, (T, F) in the dtype of x, and what the forward took and returned.

    `needs_x` and `needs_weight` say which of their gradients are wanted.
    """

    dy: Tensor
    x: Tensor
    narrow: Tensor
    bias: Tensor | None
    z: Tensor
    activation: str
    weight_dtype: torch.dtype
    needs_x: bool
    needs_weight: bool


class Gradients(NamedTuple):
    """What the backward returns. A gradient that is not wanted is empty, (0,).

    Attributes:
        dx: (T, D) in the dtype of x.
        dweight: (N, D) in the dtype of weight, of wide sums.
        dbias: (N,), wide; empty without a bias.
    """

    dx: Tensor
    dweight: Tensor
    dbias: Tensor
