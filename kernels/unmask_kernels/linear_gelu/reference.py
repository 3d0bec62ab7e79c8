"""A linear layer and the activation behind it, the first half of a feed-forward layer (Vaswani et al. 2017,
arXiv:1706.03762, section 3.3).

    z = x W^T + b
    y = the activation of z: z Phi(z), its tanh form, or the gated geglu and swiglu, as in `unmask_kernels.gelu`

Shapes: x (T, D), weight W (N, D), bias b (N,); y (T, F) with F = N, or N / 2 where gated: the first F rows of W are
Shazeer's W (2020, arXiv:2002.05202), the others his V. Everything between reading x and writing y is in the
accumulation dtype: fp32, or fp64 for fp64 input. This file is the definition: it is differentiable by autograd and runs
on any device and in fp64.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..gelu.reference import gelu
from ..precision import accumulation_dtype

__all__ = ["linear_gelu"]


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str = "gelu") -> Tensor:
    """The formulas above; arguments as in `unmask_kernels.linear_gelu`."""
    wide = accumulation_dtype(x.dtype)
    z = F.linear(x.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    return gelu(z, activation=activation).to(x.dtype)
