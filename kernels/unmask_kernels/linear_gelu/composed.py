"""linear_gelu by PyTorch's product and the family gelu: what runs unless another backend is asked for.

Plain calls, outside `torch.library`, so that autograd and the compiler see each; the activation is the backend of gelu
that is chosen or asked for there. A GPU's product is pure, and what follows reads every element anyway, adds the bias
in fp32 and sums its gradient on the way. A CPU's product adds it for nothing.

Kept for the backward: x, the narrow weight and the product.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from unmask_kernels.gelu.arguments import Activation
from unmask_kernels.gelu.op import gelu

__all__ = ["linear_gelu"]


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    """y (T, F)."""
    narrow = weight.to(x.dtype)
    if bias is None or x.device.type != "cpu":
        return gelu(F.linear(x, narrow), bias, activation=activation)
    return gelu(F.linear(x, narrow, bias.to(x.dtype)), activation=activation)
