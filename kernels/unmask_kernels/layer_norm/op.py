"""layer_norm: the public operation, its checks, its backends and its registration.

Shapes: x, residual, y (T, D); weight, bias (D,); mean, rstd (T,); row_keys (T,).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask_kernels import checks
from unmask_kernels.capability import architecture, triton_reasons
from unmask_kernels.dispatch import Backend, Family
from unmask_kernels.precision import accumulation_dtype, autocast_dtype, without_autocast

from . import reference

__all__ = ["FAMILY", "LayerNormCall", "layer_norm"]

MAX_TRITON_WIDTH = 8192


def layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-12,
    p: float = 0.0,
    key: Tensor | None = None,
    row_keys: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Normalise the rows of `residual + dropout(x)`.

    Equivalent to  F.layer_norm(residual + F.dropout(x, p), (D,), weight, bias, eps)  with statistics and the
    sum in fp32 and with dropout read from the addressed random stream (see `philox`).  Ba et al. 2016,
    arXiv:1607.06450.

    Args:
        x: (T, D), fp16, bf16, fp32 or fp64; T may be 0.
        residual: (T, D), dtype of x, or None for a plain layer norm of dropout(x).
        weight, bias: (D,), fp32 (any float dtype is accepted and computed with in fp32; fp64 next to fp64 x).
        eps: added to the variance, > 0. BERT's default.
        p: probability of dropping an element of x, in [0, 1); a plain number.
        key: scalar int64 tensor on the device of x, from `philox.dropout_keys`; needed when p > 0.
        row_keys: int64 (T,), from `Documents.row_keys`; needed when p > 0.
        backend: "triton", "torch" or "reference"; by default the best one that can run.
    Returns:
        (T, D) in the dtype of x. Under `torch.autocast`, x and residual are first cast to its dtype.
        Gradients for x, residual, weight and bias, each in its own dtype; once differentiable (the reference:
        any number of times). Deterministic: the same inputs give the same bits on one backend and machine.
    Raises:
        TypeError, ValueError: a dtype, shape or device does not match.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    _check(x, residual, weight, bias, eps, p, key, row_keys)
    dtype = autocast_dtype(x)
    x = x.to(dtype)
    residual = None if residual is None else residual.to(dtype)
    if p == 0.0:
        key = row_keys = None
    chosen = FAMILY.choose(backend, LayerNormCall(x.device.type, architecture(x), dtype, x.shape[1]))
    if chosen == "reference":
        with without_autocast(x.device.type):
            return reference.layer_norm(x, residual, weight, bias, eps=eps, p=p, key=key, row_keys=row_keys)
    wide = accumulation_dtype(dtype)
    y: Tensor = _LayerNorm.apply(  # type: ignore[no-untyped-call]
        x, residual, weight.to(wide), bias.to(wide), key, row_keys, eps, p, chosen
    )
    return y


class LayerNormCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    dtype: torch.dtype
    width: int


def _triton_refuses(call: LayerNormCall) -> list[str]:
    reasons = triton_reasons(call.device)
    if call.dtype == torch.float64:
        reasons.append("activations must be fp16, bf16 or fp32, got float64")
    if call.width > MAX_TRITON_WIDTH:
        reasons.append(f"rows up to {MAX_TRITON_WIDTH} wide, got {call.width}")
    return reasons


def _nothing_refused(call: LayerNormCall) -> list[str]:
    return []


FAMILY = Family(
    "layer_norm",
    {
        # `verified` gets an architecture once the GPU tests have passed there.
        "triton": Backend("unmask_kernels.layer_norm._triton", _triton_refuses, verified=()),
        "torch": Backend("unmask_kernels.layer_norm._torch", _nothing_refused),
        "reference": Backend("unmask_kernels.layer_norm.reference", _nothing_refused),
    },
)


def _check(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    p: float,
    key: Tensor | None,
    row_keys: Tensor | None,
) -> None:
    name = "layer_norm"
    checks.rank(name, "x", x, "(T, D)")
    checks.dtype(name, "x", x, checks.FLOATS)
    tokens, width = x.shape
    if residual is not None:
        checks.shape(name, "residual", residual, (tokens, width), "the shape of x")
        checks.dtype(name, "residual", residual, (x.dtype,))
    checks.shape(name, "weight", weight, (width,), "the last dimension of x")
    checks.shape(name, "bias", bias, (width,), "the last dimension of x")
    checks.dtype(name, "weight", weight, checks.FLOATS)
    checks.dtype(name, "bias", bias, checks.FLOATS)
    checks.same_device(name, "x", x, residual=residual, weight=weight, bias=bias)
    if eps <= 0.0:
        raise ValueError(f"layer_norm: eps must be above 0, got {eps}; BERT uses 1e-12")
    checks.probability(name, "p", p)
    if p > 0.0:
        checks.random_address(name, p, key, row_keys=row_keys)
        assert row_keys is not None
        checks.shape(name, "row_keys", row_keys, (tokens,), "one key per row of x")
        checks.same_device(name, "x", x, key=key, row_keys=row_keys)


# Every backend reads x and residual again in the backward instead of saving their sum: as many bytes, and the
# sum stays in fp32. The torch backend saves the dropout mask, Triton draws it again. What a call does not
# need is returned empty.
_SAVES_MASK = ("torch",)

_LIBRARY = torch.library.Library("unmask", "FRAGMENT")
_LIBRARY.define(
    "layer_norm_fwd(Tensor x, Tensor? residual, Tensor weight, Tensor bias, Tensor? key, Tensor? row_keys, "
    "float eps, float p, str backend) -> (Tensor y, Tensor mean, Tensor rstd, Tensor keep)"
)
_LIBRARY.define(
    "layer_norm_bwd(Tensor dy, Tensor x, Tensor? residual, Tensor weight, Tensor mean, Tensor rstd, "
    "Tensor keep, Tensor? key, Tensor? row_keys, float p, str backend) "
    "-> (Tensor dresidual, Tensor dx, Tensor dweight, Tensor dbias)"
)


def _forward(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    with without_autocast(x.device.type):
        outputs: tuple[Tensor, ...] = FAMILY.module(arguments[-1]).forward(x, *arguments[:-1])
        return outputs


def _backward(dy: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    with without_autocast(dy.device.type):
        outputs: tuple[Tensor, ...] = FAMILY.module(arguments[-1]).backward(dy, *arguments[:-1])
        return outputs


def _forward_fake(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    key: Tensor | None,
    row_keys: Tensor | None,
    eps: float,
    p: float,
    backend: str,
) -> tuple[Tensor, ...]:
    tokens, width = x.shape
    wide = accumulation_dtype(x.dtype)
    keep = (tokens, width) if p > 0.0 and backend in _SAVES_MASK else (0,)
    return (
        x.new_empty((tokens, width)),
        x.new_empty((tokens,), dtype=wide),
        x.new_empty((tokens,), dtype=wide),
        x.new_empty(keep, dtype=torch.bool),
    )


def _backward_fake(dy: Tensor, x: Tensor, residual: Tensor | None, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    p: float = rest[-2]
    dh = dy.new_empty(tuple(dy.shape) if p == 0.0 or residual is not None else (0,))
    dx = dy.new_empty(tuple(dy.shape) if p > 0.0 else (0,))
    return dh, dx, weight.new_empty(tuple(weight.shape)), weight.new_empty(tuple(weight.shape))


for _name, _run, _fake in (
    ("layer_norm_fwd", _forward, _forward_fake),
    ("layer_norm_bwd", _backward, _backward_fake),
):
    _LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"unmask::{_name}", _fake, lib=_LIBRARY)


class _LayerNorm(torch.autograd.Function):
    """Forward and backward operations tied together; once differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        key: Tensor | None,
        row_keys: Tensor | None,
        eps: float,
        p: float,
        backend: str,
    ) -> Tensor:
        y: Tensor
        y, mean, rstd, keep = torch.ops.unmask.layer_norm_fwd(x, residual, weight, bias, key, row_keys, eps, p, backend)
        ctx.save_for_backward(x, residual, weight, mean, rstd, keep, key, row_keys)
        ctx.p, ctx.backend = p, backend
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dh, dx, dweight, dbias = torch.ops.unmask.layer_norm_bwd(dy, *ctx.saved_tensors, ctx.p, ctx.backend)
        # Without dropout x and residual have the same gradient, which is written once.
        dx = dx if ctx.p > 0.0 else dh
        return dx, dh if ctx.needs_input_grad[1] else None, dweight, dbias, None, None, None, None, None
