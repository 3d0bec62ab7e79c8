"""The activations of gelu by name, and the records of what its two directions take and return.

T tokens; N columns of x; F columns of y: N, or N / 2 where gated. *Wide* is the accumulation dtype: fp32, or fp64 for
fp64 activations.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

__all__ = ["ACTIVATIONS", "GATED", "Activation", "Arguments", "BackwardArguments", "Gradients", "Results"]

Activation = Literal["gelu", "gelu_tanh", "geglu", "swiglu"]

ACTIVATIONS: tuple[Activation, ...] = ("gelu", "gelu_tanh", "geglu", "swiglu")
"""The activations by name; `reference` says what each computes."""

GATED: tuple[Activation, ...] = ("geglu", "swiglu")
"""Those that read twice as many columns as they write."""


class Arguments(NamedTuple):
    """What the forward takes, as `gelu` documents it; bias is wide."""

    x: Tensor
    bias: Tensor | None
    activation: str


class Results(NamedTuple):
    """What the forward returns: y, (T, F) in the dtype of x."""

    y: Tensor


class BackwardArguments(NamedTuple):
    """What the backward takes: the gradient of y, (T, F) in the dtype of x, and what the forward took."""

    dy: Tensor
    x: Tensor
    bias: Tensor | None
    activation: str


class Gradients(NamedTuple):
    """What the backward returns.

    Attributes:
        dx: (T, N) in the dtype of x.
        dbias: (N,), wide; empty without a bias, (0,).
    """

    dx: Tensor
    dbias: Tensor
