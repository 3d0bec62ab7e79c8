"""The product of a linear layer, differentiated without the passes over memory that PyTorch makes beside the products.

    y = x W^T + b        dx = dy W + dresidual        dW = dy^T x        db = sum over rows of dy

Where x is also a residual, its gradient is a sum. PyTorch's autograd computes dy W, and a kernel adds dresidual: two
tensors are read and one is written. The product can start from dresidual instead, in place, and then it only reads one
tensor more. And autograd rounds dW and db to 16 bits and a kernel widens them: here they are fp32 from fp32 sums, as
the parameters are. For a layer in bf16 these are two launches less for each product, and fewer roundings.

This is for GPUs: `applies_to` says where it is used. On a CPU the product takes nearly all of the time, and under
`torch.compile` the compiler puts the addition into the product by itself.

Shapes: x (T, D), weight (N, D), bias (N,), y (T, N).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import autocast_dtype, without_autocast

__all__ = ["applies_to", "grad_weight", "multiply"]

# Devices whose products of 16-bit operands can be written in fp32; `meta` counts what a GPU does.
_DEVICES = ("cuda", "meta") if torch.version.hip is None else ()


def applies_to(x: Tensor) -> bool:
    """Whether to call `multiply` on x, instead of PyTorch's product."""
    return x.device.type in _DEVICES and not torch.compiler.is_compiling()


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Multiply x by a weight, and return x again for the residual connection.

    Equivalent to  F.linear(x, weight.to(x.dtype), bias.to(x.dtype)), x

    The gradient of the second result is changed in place. So let it go where nothing else keeps its gradient: into one
    operation whose backward makes it anew, as that of `layer_norm` does.

    Args:
        x: (T, D), fp16, bf16, fp32 or fp64.
        weight: (N, D), fp32 or any other float dtype; narrowed to the dtype of x.
        bias: (N,), as weight, or None.
    Returns:
        y (T, N) in the dtype of x, and x. Under `torch.autocast`, x is first cast to its dtype.
        Gradients for x, weight and bias, each in its own dtype; once differentiable. Those of weight and bias are fp32
        sums. The backward keeps x and the narrow weight.
    """
    x = x.to(autocast_dtype(x))
    results: tuple[Tensor, Tensor] = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return results


def grad_weight(dy: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """dy^T x, (N, D) in `dtype`, for dy (T, N) and x (T, D); on a GPU, fp32 of 16-bit operands is never rounded."""
    if dtype != torch.float32 or x.element_size() != 2:
        return (dy.t() @ x).to(dtype)
    if x.device.type in _DEVICES and x.numel() > 0:
        return torch.mm(dy.t(), x, out_dtype=torch.float32)
    return dy.t().float() @ x.float()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        narrow = weight.to(x.dtype)
        ctx.save_for_backward(x, narrow)
        ctx.set_materialize_grads(False)
        ctx.weight_dtype, ctx.bias_dtype = weight.dtype, None if bias is None else bias.dtype
        with without_autocast(x.device.type):
            y = F.linear(x, narrow, None if bias is None else bias.to(x.dtype))
        return y, x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, dy: Tensor | None, dresidual: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if dy is None:
            return dresidual, None, None
        x, narrow = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        with without_autocast(x.device.type):
            dx = _grad_x(dy, narrow, dresidual) if needs_x else None
            dweight = grad_weight(dy, x, ctx.weight_dtype) if needs_weight else None
            dbias = dy.sum(0, dtype=ctx.bias_dtype) if needs_bias else None
        return dx, dweight, dbias


def _grad_x(dy: Tensor, narrow: Tensor, dresidual: Tensor | None) -> Tensor:
    if dresidual is None:
        return dy @ narrow
    # addmm that is not in place copies dresidual first, and an expanded tensor cannot be written to
    if dresidual.is_contiguous():
        return dresidual.addmm_(dy, narrow)
    return torch.addmm(dresidual, dy, narrow)
