"""layer_norm: the public operation, its checks and its registration."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..precision import accumulation_dtype, autocast_dtype, without_autocast
from ..registration import operation
from . import reference
from .arguments import Arguments, BackwardArguments, Gradients, Results
from .choice import FAMILY, describe

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
    arguments = Arguments(x, residual, x_bias, weight, bias, key, row_keys, eps, p)
    _check(arguments)
    arguments = _cast(arguments)
    chosen = FAMILY.choose(backend, describe(arguments))
    if chosen == "reference":
        with without_autocast(x.device.type):
            return reference.layer_norm(**arguments._asdict())
    y: Tensor = _layer_norm(arguments, chosen)
    return y


def _check(arguments: Arguments) -> None:
    name = "layer_norm"
    x, residual, x_bias, weight, bias, key, row_keys, eps, p = arguments
    checks.rank(name, "x", x, "(T, D)")
    checks.dtype(name, "x", x, checks.FLOATS)
    tokens, width = x.shape
    checks.shape(name, "residual", residual, (tokens, width), "the shape of x")
    checks.same_device(name, "x", x, residual=residual)
    if residual is not None and autocast_dtype(residual) != autocast_dtype(x):
        checks.dtype(name, "residual", residual, (x.dtype,))
    parameters = {"weight": weight, "bias": bias, "x_bias": x_bias}
    for role, parameter in parameters.items():
        checks.shape(name, role, parameter, (width,), "the last dimension of x")
        checks.dtype(name, role, parameter, checks.FLOATS)
    checks.same_device(name, "x", x, **parameters)
    if eps <= 0.0:
        raise ValueError(f"layer_norm: eps must be above 0, got {eps}; BERT uses 1e-12")
    checks.probability(name, "p", p)
    if p > 0.0:
        checks.random_address(name, p, key, row_keys=row_keys)
        checks.shape(name, "row_keys", row_keys, (tokens,), "one key per row of x")
        checks.same_device(name, "x", x, key=key, row_keys=row_keys)


def _cast(arguments: Arguments) -> Arguments:
    """The call in the dtypes that backends take, without a random address where nothing is dropped."""
    x, residual, x_bias, weight, bias, key, row_keys, eps, p = arguments
    dtype = autocast_dtype(x)
    wide = accumulation_dtype(dtype)
    return Arguments(
        x=x.to(dtype),
        residual=None if residual is None else residual.to(dtype),
        x_bias=None if x_bias is None else x_bias.to(wide),
        weight=weight.to(wide),
        bias=None if bias is None else bias.to(wide),
        key=key if p > 0.0 else None,
        row_keys=row_keys if p > 0.0 else None,
        eps=eps,
        p=p,
    )


def _forward_fake(arguments: Arguments, backend: str) -> Results:
    x, weight = arguments.x, arguments.weight
    tokens, width = x.shape
    # the torch backend saves the mask, Triton draws it again
    keep = (tokens, width) if arguments.p > 0.0 and backend == "torch" else (0,)
    return Results(
        y=x.new_empty((tokens, width)),
        mean=weight.new_empty((tokens,)),
        rstd=weight.new_empty((tokens,)),
        keep=x.new_empty(keep, dtype=torch.bool),
    )


def _backward_fake(arguments: BackwardArguments, backend: str) -> Gradients:
    x, weight = arguments.x, arguments.weight
    rows, columns = tuple(x.shape), tuple(weight.shape)
    return Gradients(
        dx=x.new_empty(rows if arguments.p > 0.0 else (0,)),
        dresidual=x.new_empty(rows if arguments.p == 0.0 or arguments.residual is not None else (0,)),
        dx_bias=weight.new_empty((0,) if arguments.x_bias is None else columns),
        dweight=weight.new_empty(columns),
        dbias=weight.new_empty(columns),
    )


def _share(arguments: BackwardArguments, gradients: Gradients) -> Gradients:
    """Without dropout x and residual have the same gradient, which the backward writes once."""
    return gradients if arguments.p > 0.0 else gradients._replace(dx=gradients.dresidual)


_layer_norm = operation(FAMILY, forward=_forward_fake, backward=_backward_fake, finish=_share)
