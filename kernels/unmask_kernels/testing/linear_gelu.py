"""Cases of `linear_gelu`: each activation, with and without a bias, whole tiles and one more, prime sizes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels.gelu import GATED

from .gelu import plain_activation
from .inputs import Case

__all__ = ["CASES", "MODELS", "linear_gelu_case", "plain_linear_gelu"]


def linear_gelu_case(tokens: int, depth: int, width: int, *, activation: str = "gelu", bias: bool = True) -> Case:
    """Return a case: x (tokens, depth), y (tokens, width), weight of twice `width` rows if gated.

    The product z has a standard deviation of about 1.5.
    """
    rows = 2 * width if activation in GATED else width

    def build(generator: torch.Generator) -> dict[str, Any]:
        return {
            "x": torch.randn(tokens, depth, generator=generator),
            "weight": torch.randn(rows, depth, generator=generator) * 1.5 / math.sqrt(depth),
            "bias": torch.randn(rows, generator=generator) / 2 if bias else None,
            "activation": activation,
        }

    parts = [activation, f"{tokens}x{depth}", f"{width}", "pure" * (not bias)]
    return Case(name="-".join(filter(None, parts)), build=build, parameters=("weight", "bias"))


def plain_linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str) -> Tensor:
    """Compute linear_gelu as a PyTorch user writes it: every step is rounded to the activation dtype."""
    z = F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    return plain_activation(z, activation)


CASES = [
    linear_gelu_case(12, 768, 136),
    linear_gelu_case(9, 1024, 40, activation="gelu_tanh"),
    linear_gelu_case(7, 768, 72, activation="geglu", bias=False),
    linear_gelu_case(37, 312, 150),  # no tile divides this depth
    linear_gelu_case(37, 312, 75, activation="swiglu"),
    linear_gelu_case(128, 64, 256),  # whole tiles
    linear_gelu_case(128, 64, 128, activation="swiglu", bias=False),
    linear_gelu_case(129, 65, 129),  # and one more of each
    linear_gelu_case(129, 65, 65, activation="geglu"),
    linear_gelu_case(257, 31, 131, activation="gelu_tanh"),  # primes, more tiles than programs
    linear_gelu_case(131, 13, 17, activation="swiglu"),
    linear_gelu_case(67, 1, 3, bias=False),
    linear_gelu_case(3, 40, 1, activation="geglu"),
    linear_gelu_case(1, 768, 96),
    linear_gelu_case(1, 48, 24, activation="swiglu", bias=False),  # one and a half steps of the loop over the depth
    linear_gelu_case(0, 96, 40),
    linear_gelu_case(0, 96, 40, activation="geglu", bias=False),
]
"""The models' depths, whole tiles, one row and one column more, prime sizes, one row, one column, no rows."""

MODELS = [
    linear_gelu_case(12, 768, 3072),  # BERT-base
    linear_gelu_case(9, 1024, 4096, activation="gelu_tanh"),  # BERT-large, as it was trained first
    linear_gelu_case(7, 768, 1152, activation="geglu", bias=False),  # ModernBERT-base
    linear_gelu_case(5, 1024, 2624, activation="swiglu"),
    linear_gelu_case(37, 312, 1200),  # TinyBERT
]
"""The models' full shapes."""
