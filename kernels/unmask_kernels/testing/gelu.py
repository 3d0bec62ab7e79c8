"""Cases of `gelu`: each activation, with and without a bias, odd widths, values far out in the tails."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels.gelu import GATED

from .inputs import Case

__all__ = ["CASES", "gelu_case", "plain_activation", "plain_gelu"]


def gelu_case(tokens: int, width: int, *, activation: str = "gelu", bias: bool = True, scale: float = 2.0) -> Case:
    """Return a case: y (tokens, width), x of twice the width if gated, with standard deviation `scale`."""
    columns = 2 * width if activation in GATED else width

    def build(generator: torch.Generator) -> dict[str, Any]:
        return {
            "x": torch.randn(tokens, columns, generator=generator) * scale,
            "bias": torch.randn(columns, generator=generator) / 2 if bias else None,
            "activation": activation,
        }

    parts = [activation, f"{tokens}x{width}", "pure" * (not bias), f"scale{scale:g}" * (scale != 2.0)]
    return Case(name="-".join(filter(None, parts)), build=build, parameters=("bias",))


def plain_gelu(x: Tensor, bias: Tensor | None = None, *, activation: str) -> Tensor:
    """Compute gelu with PyTorch's own functions in fp32 or wider; only the result is rounded."""
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    return plain_activation(z if bias is None else z + bias, activation).to(x.dtype)


def plain_activation(z: Tensor, activation: str) -> Tensor:
    """Apply PyTorch's own activation to z, gated or not."""
    if activation in GATED:
        gate, value = z.tensor_split(2, dim=1)
        return F.silu(gate) * value if activation == "swiglu" else F.gelu(gate) * value
    return F.gelu(z, approximate="tanh" if activation == "gelu_tanh" else "none")


CASES = [
    gelu_case(12, 3072),  # BERT-base
    gelu_case(9, 4096, activation="gelu_tanh"),  # BERT-large, as it was trained first
    gelu_case(7, 1152, activation="geglu"),  # ModernBERT-base
    gelu_case(7, 1152, activation="geglu", bias=False),  # as it is trained: without biases
    gelu_case(5, 2624, activation="swiglu"),
    gelu_case(37, 312),
    gelu_case(37, 312, activation="gelu_tanh", bias=False),
    gelu_case(131, 13, activation="swiglu"),
    gelu_case(131, 13, activation="geglu"),
    gelu_case(67, 1),
    gelu_case(1, 768, activation="gelu_tanh"),
    gelu_case(1, 768, bias=False),
    gelu_case(0, 96),
    gelu_case(0, 96, activation="geglu", bias=False),
    gelu_case(23, 40, scale=1e4),
    gelu_case(23, 40, activation="gelu_tanh", scale=1e4),
    gelu_case(23, 40, activation="geglu", scale=1e2),
    gelu_case(23, 40, activation="swiglu", scale=1e2),
]
"""The models' shapes, prime sizes, one column, one row, no rows, and values far out in the tails."""
