"""layer_norm: the public operation, its checks and its registration.

Shapes: x, residual, y (T, D); x_bias, weight, bias (D,); mean, rstd (T,); row_keys (T,).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unmask_kernels import checks
from unmask_kernels.capability import architecture
from unmask_kernels.precision import accumulation_dtype, autocast_dtype, without_autocast
from unmask_kernels.registration import register, save, saved

from . import reference
from .arguments import Arguments
from .choice import FAMILY, LayerNormCall

__all__ = ["layer_norm"]


def layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    x_bias: Tensor | None = None,
    eps: float = 1e-12,
    p: float = 0.0,
    key: Tensor | None = None,
    row_keys: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Normalise the rows of `residual + dropout(x + x_bias)`.

    Equivalent to  F.layer_norm(residual + F.dropout(x + x_bias, p), (D,), weight, bias, eps)  with statistics and
    the sum in fp32 and with dropout read from the addressed random stream (see `philox`).  Ba et al. 2016,
    arXiv:1607.06450.

    Args:
        x: (T, D), fp16, bf16, fp32 or fp64; T may be 0.
        residual: (T, D), dtype of x (under `torch.autocast` another one too), or None for a plain layer norm of
            dropout(x + x_bias).
        weight: (D,), fp32 (any float dtype is accepted and computed with in fp32; fp64 next to fp64 x).
        bias: (D,), as weight, or None for a norm without one.
        x_bias: (D,), as weight, or None: the bias of the linear layer that made x, which then is a pure product.
        eps: added to the variance, > 0. BERT's default.
        p: probability of dropping an element of x + x_bias, in [0, 1); a plain number.
        key: scalar int64 tensor on the device of x, from `philox.dropout_keys`; needed when p > 0.
        row_keys: int64 (T,), from `Documents.row_keys`; needed when p > 0.
        backend: "triton", "torch" or "reference"; by default the best one that can run.
    Returns:
        y (T, D) in the dtype of x. Under `torch.autocast`, x and residual are first cast to its dtype.
        Gradients for x, residual, x_bias, weight and bias, each in its own dtype; once differentiable (the reference:
        any number of times). Deterministic: the same inputs give the same bits on one backend and machine.
    Raises:
        TypeError, ValueError: a dtype, shape or device does not match.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    _check(x, residual, weight, bias, x_bias, eps, p, key, row_keys)
    dtype = autocast_dtype(x)
    x = x.to(dtype)
    residual = None if residual is None else residual.to(dtype)
    if p == 0.0:
        key = row_keys = None
    chosen = FAMILY.choose(backend, LayerNormCall(x.device.type, architecture(x), dtype, x.shape[1]))
    if chosen == "reference":
        random: dict[str, Any] = {"p": p, "key": key, "row_keys": row_keys}
        with without_autocast(x.device.type):
            return reference.layer_norm(x, residual, weight, bias, x_bias=x_bias, eps=eps, **random)
    wide = accumulation_dtype(dtype)
    x_bias, bias = (None if parameter is None else parameter.to(wide) for parameter in (x_bias, bias))
    y: Tensor = _LayerNorm.apply(  # type: ignore[no-untyped-call]
        x, residual, x_bias, weight.to(wide), bias, Arguments(key, row_keys, eps, p), chosen
    )
    return y


def _check(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    x_bias: Tensor | None,
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
        checks.same_device(name, "x", x, residual=residual)
        if autocast_dtype(residual) != autocast_dtype(x):
            checks.dtype(name, "residual", residual, (x.dtype,))
    parameters = {"weight": weight, "bias": bias, "x_bias": x_bias}
    for role, parameter in parameters.items():
        if parameter is not None:
            checks.shape(name, role, parameter, (width,), "the last dimension of x")
            checks.dtype(name, role, parameter, checks.FLOATS)
    checks.same_device(name, "x", x, **parameters)
    if eps <= 0.0:
        raise ValueError(f"layer_norm: eps must be above 0, got {eps}; BERT uses 1e-12")
    checks.probability(name, "p", p)
    if p > 0.0:
        checks.random_address(name, p, key, row_keys=row_keys)
        assert row_keys is not None
        checks.shape(name, "row_keys", row_keys, (tokens,), "one key per row of x")
        checks.same_device(name, "x", x, key=key, row_keys=row_keys)


# Every backend reads x and residual again in the backward instead of saving their sum: as many
# bytes, and the sum stays in fp32. The torch backend saves the dropout mask, Triton draws it again. What a call
# does not need is returned empty.
_SAVES_MASK = ("torch",)


def _forward_fake(
    x: Tensor,
    residual: Tensor | None,
    x_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    arguments: Arguments,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens, width = x.shape
    keep = (tokens, width) if arguments.p > 0.0 and backend in _SAVES_MASK else (0,)
    return (
        x.new_empty((tokens, width)),
        weight.new_empty((tokens,)),
        weight.new_empty((tokens,)),
        x.new_empty(keep, dtype=torch.bool),
    )


def _backward_fake(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    x_bias: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    keep: Tensor,
    arguments: Arguments,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(tuple(x.shape) if arguments.p == 0.0 or residual is not None else (0,)),
        x.new_empty(tuple(x.shape) if arguments.p > 0.0 else (0,)),
        weight.new_empty((0,) if x_bias is None else tuple(weight.shape)),
        weight.new_empty(tuple(weight.shape)),
        weight.new_empty(tuple(weight.shape)),
    )


register(FAMILY, forward=_forward_fake, backward=_backward_fake)


class _LayerNorm(torch.autograd.Function):
    """Forward and backward operations tied together; once differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        x_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        arguments: Arguments,
        backend: str,
    ) -> Tensor:
        y: Tensor
        y, mean, rstd, keep = torch.ops.unmask.layer_norm_fwd(x, residual, x_bias, weight, bias, *arguments, backend)
        save(ctx, x, residual, x_bias, weight, mean, rstd, keep, *arguments, backend)
        ctx.dropped = arguments.p > 0.0
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dh, dx, dx_bias, dweight, dbias = torch.ops.unmask.layer_norm_bwd(dy, *saved(ctx))
        _, for_residual, for_x_bias, _, for_bias, *_ = ctx.needs_input_grad
        return (
            # without dropout x and residual have the same gradient, which is written once
            dx if ctx.dropped else dh,
            dh if for_residual else None,
            dx_bias if for_x_bias else None,
            dweight,
            dbias if for_bias else None,
            None,
            None,
        )
