"""Bias and activation as one operation: GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415) and gated linear units
(Shazeer 2020, arXiv:2002.05202).

    z = x + bias
    gelu       y = z Phi(z)                               Phi: distribution function of the standard normal
    gelu_tanh  y = z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z**3))) / 2         the original BERT's, within 5e-4 of gelu
    geglu      y = gelu(z[:, :F]) z[:, F:]                GEGLU(x, W, V) = GELU(x W) * (x V), columns [W | V]
    swiglu     y = silu(z[:, :F]) z[:, F:]                SwiGLU(x, W, V) = Swish_1(x W) * (x V)

Shapes: x (T, N), bias (N,); y (T, F) with F = N, or N / 2 where gated. Everything between reading x and writing y is in
the accumulation dtype: fp32, or fp64 for fp64 input. This file is the definition: it is differentiable by
autograd and runs on any device and in fp64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..precision import accumulation_dtype

__all__ = ["gelu"]


def gelu(x: Tensor, bias: Tensor | None = None, *, activation: str = "gelu") -> Tensor:
    """The formulas above; arguments as in `unmask_kernels.gelu`."""
    wide = accumulation_dtype(x.dtype)
    z = x.to(wide)
    if bias is not None:
        z = z + bias.to(wide)
    if activation == "gelu":
        y = z * torch.special.ndtr(z)
    elif activation == "gelu_tanh":
        y = z * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3))) / 2.0
    else:
        gate, value = z.chunk(2, dim=-1)
        y = gate * (torch.special.ndtr(gate) if activation == "geglu" else torch.sigmoid(gate)) * value
    return y.to(x.dtype)
