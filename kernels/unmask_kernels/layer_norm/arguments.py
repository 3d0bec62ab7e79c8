"""The records of layer_norm: what its two directions take and return.

T tokens, D columns. *Wide* is the accumulation dtype: fp32, or fp64 for fp64 rows.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Arguments", "BackwardArguments", "Gradients", "Results"]


class Arguments(NamedTuple):
    """What the forward takes, as `layer_norm` documents it.

    residual (T, D) has the dtype of x; x_bias, weight and bias (D,) are wide. Without dropout, key and row_keys are
    None.
    """

    x: Tensor
    residual: Tensor | None
    x_bias: Tensor | None
    weight: Tensor
    bias: Tensor | None
    key: Tensor | None
    row_keys: Tensor | None
    eps: float
    p: float


class Results(NamedTuple):
    """What the forward returns.

    Attributes:
        y: (T, D) in the dtype of x.
        mean, rstd: of each row, wide (T,).
        keep: what dropout keeps, bool (T, D), from a backend that saves it; else empty, (0,).
    """

    y: Tensor
    mean: Tensor
    rstd: Tensor
    keep: Tensor


class BackwardArguments(NamedTuple):
    """What the backward takes: the gradient of y, (T, D) in the dtype of x, and what the forward took and returned.

    h, the sum that is normalised, is not saved: x and residual are as many bytes, and give h in the accumulation dtype.
    """

    dy: Tensor
    x: Tensor
    residual: Tensor | None
    x_bias: Tensor | None
    weight: Tensor
    mean: Tensor
    rstd: Tensor
    keep: Tensor
    key: Tensor | None
    row_keys: Tensor | None
    p: float


class Gradients(NamedTuple):
    """What the backward returns. A gradient that nobody reads is empty, (0,).

    Attributes:
        dx: (T, D) in the dtype of x; empty without dropout, since it then equals dresidual.
        dresidual: (T, D) in the dtype of x; empty with dropout and without a residual.
        dx_bias: (D,), wide; empty without x_bias.
        dweight, dbias: (D,), wide.
    """

    dx: Tensor
    dresidual: Tensor
    dx_bias: Tensor
    dweight: Tensor
    dbias: Tensor
