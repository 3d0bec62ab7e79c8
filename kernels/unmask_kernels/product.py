"""The product of a linear layer, differentiated without the passes over memory that PyTorch makes beside the products.

    y = x W^T + b        dx = dy W + dresidual        dW = dy^T x        db = sum over rows of dy

Where x is also a residual, its gradient is a sum. PyTorch's autograd computes dy W, and a kernel adds dresidual: two
tensors are read and one is written. The product can start from dresidual instead, in place, and then it only reads one
tensor more. And autograd rounds dW and db to 16 bits and a kernel widens them: here they are fp32 from fp32 sums, as
the parameters are. For a layer of BERT in bf16 these are seven launches less, and fewer roundings. A weight that its
optimizer keeps in 16 bits too is read there (`narrow`): five launches less.

This is for training on GPUs: `applies_to` says where it is used. On a CPU the product takes nearly all of the time, and
under `torch.compile` the compiler puts the addition into the product by itself.

Shapes: x (T, D), weight (N, D), bias (N,), y (T, N).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .narrow import narrowed
from .precision import autocast_dtype, autocasts, without_autocast

__all__ = ["applies_to", "grad_weight", "multiply", "multiply_beside_residual"]

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, None, None]

# Devices whose products of 16-bit operands can be written in fp32; `meta` counts what a GPU does.
_DEVICES = ("cuda", "meta") if torch.version.hip is None else ()


def applies_to(x: Tensor) -> bool:
    """Whether to call these functions on x, instead of PyTorch's product."""
    return torch.is_grad_enabled() and x.device.type in _DEVICES and not torch.compiler.is_compiling()


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x by a weight.

    Equivalent to  F.linear(x, weight.to(x.dtype))

    Args:
        x: (T, D), fp16, bf16, fp32 or fp64.
        weight: (N, D), fp32 or any other float dtype; narrowed to the dtype of x.
    Returns:
        y (T, N) in the dtype of x. Under `torch.autocast`, x is first cast to its dtype.
        Gradients for x and weight, each in its own dtype; once differentiable. That of weight is made of fp32 sums.
        The backward keeps x and the narrow weight.
    """
    y: Tensor = _apply(x, weight, None, False)
    return y


def multiply_beside_residual(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Multiply x by a weight, and return x again for the residual connection.

    Equivalent to  F.linear(x, weight.to(x.dtype), bias.to(x.dtype)), x

    The gradient of the second result is changed in place. So let it go where nothing else keeps its gradient: into one
    operation whose backward makes it anew, as that of `layer_norm` does.

    Args:
        x, weight: as for `multiply`.
        bias: (N,), as weight, or None. Its gradient is made of fp32 sums too.
    Returns:
        y (T, N) and x, in the dtype of x or of autocast.
    """
    y, x = _apply(x, weight, bias, True)
    return y, x


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None, beside_residual: bool) -> Any:
    apply: Any = _Product.apply
    device = x.device.type
    if not autocasts(device):
        return apply(x, weight, bias, beside_residual, device)
    x = x.to(autocast_dtype(x))
    with without_autocast(device):
        return apply(x, weight, bias, beside_residual, device)


def grad_weight(dy: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """dy^T x, (N, D) in `dtype`, for dy (T, N) and x (T, D); on a GPU, fp32 of 16-bit operands is never rounded."""
    if dtype != torch.float32 or x.element_size() != 2:
        return (dy.t() @ x).to(dtype)
    if x.device.type in _DEVICES and x.numel() > 0:
        return torch.mm(dy.t(), x, out_dtype=torch.float32)
    return dy.t().float() @ x.float()


class _Product(torch.autograd.Function):
    # The host needs most of the time of a small layer, and these functions run four times a layer: each call counts.

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, beside_residual: bool, device: str) -> Any:
        narrow = narrowed(weight, x.dtype)
        ctx.save_for_backward(x, narrow)
        ctx.settings = weight.dtype, None if bias is None else bias.dtype, device
        y = F.linear(x, narrow, None if bias is None else narrowed(bias, x.dtype))
        if not beside_residual:
            return y
        ctx.set_materialize_grads(False)
        return y, x

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dresidual: Tensor | None = None) -> _Gradients:
        # the decorator takes longer than a launch, and grad mode is on for a second derivative only
        return (_once_differentiable if torch.is_grad_enabled() else _differentiate)(ctx, dy, dresidual)


def _differentiate(ctx: Any, dy: Tensor | None, dresidual: Tensor | None) -> _Gradients:
    if dy is None:
        return dresidual, None, None, None, None
    weight_dtype, bias_dtype, device = ctx.settings
    if autocasts(device):
        with without_autocast(device):
            return _differentiate(ctx, dy, dresidual)
    x, narrow = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
    dx = _grad_x(dy, narrow, dresidual) if needs_x else None
    dweight = grad_weight(dy, x, weight_dtype) if needs_weight else None
    dbias = dy.sum(0, dtype=bias_dtype) if needs_bias else None
    return dx, dweight, dbias, None, None


_once_differentiable = torch.autograd.function.once_differentiable(_differentiate)


def _grad_x(dy: Tensor, narrow: Tensor, dresidual: Tensor | None) -> Tensor:
    if dresidual is None:
        return torch.mm(dy, narrow)
    # addmm that is not in place copies dresidual first, and an expanded tensor cannot be written to
    if dresidual.is_contiguous():
        return dresidual.addmm_(dy, narrow)
    return torch.addmm(dresidual, dy, narrow)
