"""Cases of `gelu`: each activation, with and without a bias, odd widths, values far out in the tails."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels.gelu import GATED

from .inputs import Case, Inputs

__all__ = ["CASES", "gelu_case", "plain_gelu"]


def gelu_case(tokens: int, width: int, *, activation: str = "gelu", bias: bool = True, scale: float = 2.0) -> Case:
    """Return a case: y (tokens, width), x of twice the width if gated, with standard deviation `scale`."""
    columns = 2 * width if activation in GATED else width

    def build(generator: torch.Generator) -> Inputs:
        arguments = {
            "x": torch.randn(tokens, columns, generator=generator) * scale,
            "bias": torch.randn(columns, generator=generator) / 2 if bias else None,
            "activation": activation,
        }
        return Inputs(
            arguments=arguments,
            differentiable=("x", "bias") if bias else ("x",),
            parameters=("bias",),
        )

    parts = [activation, f"{tokens}x{width}"]
    parts += [] if bias else ["pure"]
    parts += [f"scale{scale:g}"] if scale != 2.0 else []
    return Case(name="-".join(parts), build=build)


def plain_gelu(x: Tensor, bias: Tensor | None = None, *, activation: str) -> Tensor:
    """Compute gelu with PyTorch's own functions in fp32 or wider; only the result is rounded."""
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        z = z + bias
    if activation in GATED:
        gate, value = z.tensor_split(2, dim=1)
        y = F.silu(gate) * value if activation == "swiglu" else F.gelu(gate) * value
    else:
        y = F.gelu(z, approximate="tanh" if activation == "gelu_tanh" else "none")
    return y.to(x.dtype)


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
