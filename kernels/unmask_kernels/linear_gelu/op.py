"""linear_gelu: the public operation, its checks and its registration."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..gelu.arguments import ACTIVATIONS, GATED, Activation
from ..precision import accumulation_dtype, autocast_dtype, without_autocast
from ..registration import operation
from . import composed, reference
from .arguments import Arguments, BackwardArguments, Gradients, Results
from .choice import FAMILY, describe

__all__ = ["linear_gelu", "linear_gelu_and_residual"]


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
        any number of times). The backward keeps x, the product z and the narrow weight; without gradients nothing is
        kept. Deterministic: the same inputs give the same bits on one backend and machine.
    Raises:
        TypeError, ValueError: a dtype, shape or device does not match, or activation is not one of the four.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    return linear_gelu_and_residual(x, weight, bias, activation=activation, backend=backend)[0]


def linear_gelu_and_residual(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "gelu",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Do the same, and return x again for the residual connection, whose gradient the product may add.

    That gradient may be changed in place: see `product.multiply_beside_residual`. Under `torch.autocast`, x has its
    dtype.
    """
    _check(x, weight, bias, activation)
    x = x.to(autocast_dtype(x))
    chosen = FAMILY.choose(backend, describe(x, weight, activation))
    if chosen in ("reference", "torch"):
        with without_autocast(x.device.type):
            if chosen == "torch":
                return composed.linear_gelu(x, weight, bias, activation)
            return reference.linear_gelu(x, weight, bias, activation=activation), x
    with_z = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)
    )
    arguments = Arguments(
        x=x,
        weight=weight,
        narrow=weight.detach().to(x.dtype),
        bias=None if bias is None else bias.to(accumulation_dtype(x.dtype)),
        activation=activation,
        weight_dtype=weight.dtype,
        with_z=with_z,
    )
    return _linear_gelu(arguments, chosen), x


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
    checks.shape(name, "bias", bias, (weight.shape[0],), "one entry per row of weight")
    checks.dtype(name, "bias", bias, checks.FLOATS)
    checks.same_device(name, "x", x, weight=weight, bias=bias)


def _forward_fake(arguments: Arguments, backend: str) -> Results:
    x = arguments.x
    tokens, width = x.shape[0], arguments.weight.shape[0]
    return Results(
        y=x.new_empty((tokens, width // 2 if arguments.activation in GATED else width)),
        z=x.new_empty((tokens, width) if arguments.with_z else (0,)),
    )


def _backward_fake(arguments: BackwardArguments, backend: str) -> Gradients:
    x, narrow, bias = arguments.x, arguments.narrow, arguments.bias
    return Gradients(
        dx=x.new_empty(tuple(x.shape) if arguments.needs_x else (0,)),
        dweight=x.new_empty(tuple(narrow.shape) if arguments.needs_weight else (0,), dtype=arguments.weight_dtype),
        dbias=x.new_empty((0,) if bias is None else tuple(bias.shape), dtype=accumulation_dtype(x.dtype)),
    )


_linear_gelu = operation(FAMILY, forward=_forward_fake, backward=_backward_fake)
