"""The records of mlm_loss: what its two directions take and return.

T tokens, M slots, D columns, a vocabulary of V. *Wide* is the accumulation dtype: fp32, or fp64 for fp64 hidden.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Arguments", "BackwardArguments", "Gradients", "Results"]


class Arguments(NamedTuple):
    """What the forward takes, as `mlm_loss` documents it, and whether it computes gradients."""

    hidden: Tensor
    positions: Tensor | None
    labels: Tensor
    weight: Tensor
    bias: Tensor | None
    with_gradients: bool


class Results(NamedTuple):
    """What the forward returns. Gradients are those of loss; they are empty, (0,), if none are asked for.

    Attributes:
        loss: scalar, wide.
        predicted, correct: number of predictions, and number of right ones, scalars, int64.
        dx: gradient of the rows at `positions`, (M, D) in the dtype of hidden.
        dweight: gradient from all chunks but the last, (V, D), wide; (0, D) if there is only one chunk.
        dbias: (V,), wide; empty without bias.
        dlogits: gradient of the last chunk's logits, (rows, V + padding) in the dtype of hidden.
    """

    loss: Tensor
    predicted: Tensor
    correct: Tensor
    dx: Tensor
    dweight: Tensor
    dbias: Tensor
    dlogits: Tensor


class BackwardArguments(NamedTuple):
    """What the backward takes: the gradient of loss, a wide scalar, and what the forward took and returned.

    It reads only the shape and dtype of weight and bias. `needs_weight` is False if the projection is frozen.
    """

    dloss: Tensor
    hidden: Tensor
    positions: Tensor | None
    weight: Tensor
    bias: Tensor | None
    dx: Tensor
    dweight: Tensor
    dbias: Tensor
    dlogits: Tensor
    needs_weight: bool


class Gradients(NamedTuple):
    """What the backward returns, each in the shape and dtype of its argument.

    Attributes:
        dhidden: never empty.
        dweight: empty, (0,), if the projection is frozen.
        dbias: empty, (0,), without bias.
    """

    dhidden: Tensor
    dweight: Tensor
    dbias: Tensor
