"""gelu: the public operation, its checks, its backends and its registration.

Shapes: x (T, N), bias (N,), y (T, F), with F = N, or N / 2 where gated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask_kernels import checks
from unmask_kernels.capability import architecture, triton_reasons
from unmask_kernels.dispatch import Backend, Family
from unmask_kernels.precision import accumulation_dtype, autocast_dtype, without_autocast
from unmask_kernels.registration import register, save, saved

from . import reference
from .activations import ACTIVATIONS, GATED, Activation

__all__ = ["FAMILY", "GeluCall", "gelu"]


def gelu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "gelu",
    backend: str | None = None,
) -> Tensor:
    """Add the bias of a linear layer to its product and apply GELU, or a gated linear unit.

    Equivalent to  F.gelu(x + bias)  with the sum and the function in fp32 and without writing the sum; so a
    linear layer in front can be a pure product.  Hendrycks and Gimpel 2016, arXiv:1606.08415; gated forms
    Shazeer 2020, arXiv:2002.05202.

    Args:
        x: (T, N), fp16, bf16, fp32 or fp64; T may be 0.
        bias: (N,), fp32 (any float dtype is accepted and computed with in fp32; fp64 next to fp64 x), or None.
        activation: with z = x + bias,
            "gelu": z Phi(z), the exact form (erf);
            "gelu_tanh": its tanh approximation, that of the original BERT;
            "geglu": gelu(first half of the columns) * second half;
            "swiglu": silu(first half of the columns) * second half.
            So the first N / 2 columns, Shazeer's W, are the gate, which goes through the function (ModernBERT's `Wi`
            has the same order); the others, his V, are multiplied by it. N is even then.
        backend: "triton", "torch" or "reference"; by default the best one that can run.
    Returns:
        (T, N), or (T, N / 2) where gated, in the dtype of x. Under `torch.autocast`, x is first cast to its dtype.
        Gradients for x and bias, each in its own dtype; once differentiable (the reference: any number of
        times). The backward saves x and nothing else. Deterministic: the same inputs give the same bits on one
        backend and machine.
    Raises:
        TypeError, ValueError: a dtype, shape or device does not match, or activation is not one of the four.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    _check(x, bias, activation)
    dtype = autocast_dtype(x)
    x = x.to(dtype)
    chosen = FAMILY.choose(backend, GeluCall(x.device.type, architecture(x), dtype))
    if chosen == "reference":
        with without_autocast(x.device.type):
            return reference.gelu(x, bias, activation=activation)
    bias = None if bias is None else bias.to(accumulation_dtype(dtype))
    y: Tensor = _Gelu.apply(x, bias, activation, chosen)  # type: ignore[no-untyped-call]
    return y


class GeluCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    dtype: torch.dtype


def _triton_refuses(call: GeluCall) -> list[str]:
    reasons = triton_reasons(call.device)
    if call.dtype == torch.float64:
        reasons.append("activations must be fp16, bf16 or fp32, got float64")
    return reasons


FAMILY = Family(
    "gelu",
    {
        # `verified` gets an architecture once the GPU tests have passed there.
        "triton": Backend("unmask_kernels.gelu._triton", _triton_refuses, verified=()),
        "torch": Backend("unmask_kernels.gelu._torch"),
        "reference": Backend("unmask_kernels.gelu.reference"),
    },
    example=lambda device, architecture, dtype: GeluCall(device, architecture, dtype),
)


def _check(x: Tensor, bias: Tensor | None, activation: str) -> None:
    name = "gelu"
    checks.rank(name, "x", x, "(T, N)")
    checks.dtype(name, "x", x, checks.FLOATS)
    if activation not in ACTIVATIONS:
        known = ", ".join(repr(known) for known in ACTIVATIONS)
        raise ValueError(f"gelu: activation must be one of {known}, got {activation!r}")
    if activation in GATED and x.shape[1] % 2:
        raise ValueError(
            f"gelu: x must have an even number of columns for activation {activation!r}, a gate and a value of equal "
            f"width, got {tuple(x.shape)}"
        )
    if bias is not None:
        checks.shape(name, "bias", bias, (x.shape[1],), "the last dimension of x")
        checks.dtype(name, "bias", bias, checks.FLOATS)
        checks.same_device(name, "x", x, bias=bias)


def _forward_fake(x: Tensor, bias: Tensor | None, activation: str, backend: str) -> Tensor:
    tokens, width = x.shape
    return x.new_empty((tokens, width // 2 if activation in GATED else width))


def _backward_fake(dy: Tensor, x: Tensor, bias: Tensor | None, activation: str, backend: str) -> tuple[Tensor, Tensor]:
    dbias = x.new_empty(0, dtype=accumulation_dtype(x.dtype)) if bias is None else bias.new_empty(tuple(bias.shape))
    return x.new_empty(tuple(x.shape)), dbias


register(FAMILY, forward=_forward_fake, backward=_backward_fake)


class _Gelu(torch.autograd.Function):
    """Forward and backward operations tied together; once differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, activation: str, backend: str) -> Tensor:
        save(ctx, x, bias, activation, backend)
        y: Tensor = torch.ops.unmask.gelu_fwd(x, bias, activation, backend)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dx, dbias = torch.ops.unmask.gelu_bwd(dy, *saved(ctx))
        return dx, dbias if ctx.needs_input_grad[1] else None, None, None
