"""linear_gelu by a product and the family gelu: the backend `torch`, which runs unless another is asked for.

These are calls outside `torch.library`, so that autograd and the compiler see each of them. On a GPU the product is
pure: gelu reads every element anyway, adds the bias in fp32 and sums its gradient on the way. On a CPU the product adds
the bias at no cost.

The backward keeps x, the narrow weight and the product.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .. import product
from ..gelu.arguments import Activation
from ..gelu.op import gelu

__all__ = ["linear_gelu"]


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> tuple[Tensor, Tensor]:
    """y (T, F), and x as `multiply_beside_residual` returns it."""
    if product.applies_to(x):
        z, x = product.multiply_beside_residual(x, weight)
        return gelu(z, bias, activation=activation), x
    narrow = weight.to(x.dtype)
    if bias is None or x.device.type != "cpu":
        return gelu(F.linear(x, narrow), bias, activation=activation), x
    return gelu(F.linear(x, narrow, bias.to(x.dtype)), activation=activation), x
