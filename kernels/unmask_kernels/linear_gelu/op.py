"""linear_gelu: the public operation, its checks, its backends and its registration.

Shapes: x (T, D), weight (N, D), bias (N,), z (T, N), y (T, F), with F = N, or N / 2 where gated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask_kernels import checks
from unmask_kernels.capability import architecture, triton_reasons
from unmask_kernels.dispatch import Backend, Family
from unmask_kernels.gelu.arguments import ACTIVATIONS, GATED, Activation
from unmask_kernels.precision import accumulation_dtype, autocast_dtype, without_autocast
from unmask_kernels.registration import register, save, saved

from . import composed, reference

__all__ = ["FAMILY", "LinearGeluCall", "linear_gelu"]


def linear_gelu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "gelu",
    backend: str | None = None,
) -> Tensor:
    """Apply a linear layer and the activation behind it.

    Equivalent to  F.gelu(F.linear(x, weight, bias))  with fp32 sums.  Hendrycks and Gimpel 2016, arXiv:1606.08415;
    gated forms Shazeer 2020, arXiv:2002.05202.

    Args:
        x: (T, D), fp16, bf16, fp32 or fp64; T may be 0, D is at least 1.
        weight: (N, D), fp32 or any other float dtype; narrowed to the dtype of x once a call.
        bias: (N,), fp32 (any float dtype is accepted), or None.
        activation: with z = x weight^T + bias, "gelu", "gelu_tanh", or, gated, "geglu" and "swiglu", as in
            `unmask_kernels.gelu`: the first N / 2 rows of weight make the gate, which goes through the function, the
            others what it is multiplied by. N is even then.
        backend: "triton", "torch" or "reference"; by default PyTorch's product and `unmask_kernels.gelu`, until
            the product with the activation in its epilogue has been measured.
    Returns:
        (T, N), or (T, N / 2) where gated, in the dtype of x. Under `torch.autocast`, x is first cast to its dtype.
        Gradients for x, weight and bias, each in its own dtype, of fp32 sums; once differentiable (the reference:
            any number of times). Kept for the backward are x, the product z and the narrow weight, nothing without
        gradients. Deterministic: the same inputs give the same bits on one backend and machine.
    Raises:
        TypeError, ValueError: a dtype, shape or device does not match, or activation is not one of the four.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    _check(x, weight, bias, activation)
    dtype = autocast_dtype(x)
    x = x.to(dtype)
    chosen = FAMILY.choose(backend, LinearGeluCall(x.device.type, architecture(x), dtype))
    if chosen == "reference":
        with without_autocast(x.device.type):
            return reference.linear_gelu(x, weight, bias, activation=activation)
    if chosen == "torch":
        with without_autocast(x.device.type):
            return composed.linear_gelu(x, weight, bias, activation)
    bias = None if bias is None else bias.to(accumulation_dtype(dtype))
    y: Tensor = _LinearGelu.apply(x, weight, bias, activation, torch.is_grad_enabled(), chosen)  # type: ignore[no-untyped-call]
    return y


class LinearGeluCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    dtype: torch.dtype


def _triton_refuses(call: LinearGeluCall) -> list[str]:
    reasons = triton_reasons(call.device)
    if call.dtype == torch.float64:
        reasons.append("activations must be fp16, bf16 or fp32, got float64")
    return reasons


FAMILY = Family(
    "linear_gelu",
    {
        # `verified` gets an architecture once the GPU tests have passed there and it has beaten product and gelu.
        "triton": Backend("unmask_kernels.linear_gelu._triton", _triton_refuses, verified=()),
        "torch": Backend("unmask_kernels.linear_gelu.composed"),
        "reference": Backend("unmask_kernels.linear_gelu.reference"),
    },
    example=lambda device, architecture, dtype: LinearGeluCall(device, architecture, dtype),
)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> None:
    name = "linear_gelu"
    checks.rank(name, "x", x, "(T, D)")
    checks.rank(name, "weight", weight, "(N, D)")
    checks.dtype(name, "x", x, checks.FLOATS)
    checks.dtype(name, "weight", weight, checks.FLOATS)
    if weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"linear_gelu: weight must have {x.shape[1]} columns, the last dimension of x, "
            f"got shape {tuple(weight.shape)}"
        )
    if x.shape[1] == 0:
        raise ValueError(f"linear_gelu: x must have at least one column, got shape {tuple(x.shape)}")
    if activation not in ACTIVATIONS:
        known = ", ".join(repr(known) for known in ACTIVATIONS)
        raise ValueError(f"linear_gelu: activation must be one of {known}, got {activation!r}")
    if activation in GATED and weight.shape[0] % 2:
        raise ValueError(
            f"linear_gelu: weight must have an even number of rows for activation {activation!r}, a gate and a value "
            f"of equal width, got shape {tuple(weight.shape)}"
        )
    if bias is not None:
        checks.shape(name, "bias", bias, (weight.shape[0],), "one entry per row of weight")
        checks.dtype(name, "bias", bias, checks.FLOATS)
    checks.same_device(name, "x", x, weight=weight, bias=bias)


def _forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, with_z: bool, backend: str
) -> tuple[Tensor, Tensor]:
    tokens, width = x.shape[0], weight.shape[0]
    y = x.new_empty((tokens, width // 2 if activation in GATED else width))
    return y, x.new_empty((tokens, width) if with_z else (0,))


def _backward_fake(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor,
    activation: str,
    for_x: bool,
    for_weight: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = accumulation_dtype(x.dtype)
    return (
        x.new_empty(tuple(x.shape) if for_x else (0,)),
        x.new_empty(tuple(weight.shape) if for_weight else (0,), dtype=wide),
        x.new_empty((0,) if bias is None else tuple(bias.shape), dtype=wide),
    )


register(FAMILY, forward=_forward_fake, backward=_backward_fake)


class _LinearGelu(torch.autograd.Function):
    """Forward and backward operations tied together; once differentiable."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, grad_enabled: bool, backend: str
    ) -> Tensor:
        needed = grad_enabled and any(ctx.needs_input_grad)
        narrow = weight.to(x.dtype)
        y: Tensor
        y, z = torch.ops.unmask.linear_gelu_fwd(x, narrow, bias, activation, needed, backend)
        save(ctx, x, narrow, bias, z, activation, backend)
        ctx.weight_dtype = weight.dtype
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *call, backend = saved(ctx)
        for_x, for_weight, for_bias, *_ = ctx.needs_input_grad
        dx, dweight, dbias = torch.ops.unmask.linear_gelu_bwd(dy, *call, for_x, for_weight, backend)
        return (
            dx if for_x else None,
            dweight.to(ctx.weight_dtype) if for_weight else None,
            dbias if for_bias else None,
            None,
            None,
            None,
        )
