"""gelu: the public operation, its checks and its registration."""

from __future__ import annotations

from torch import Tensor

from .. import checks
from ..precision import accumulation_dtype, autocast_dtype, without_autocast
from ..registration import operation
from . import reference
from .arguments import ACTIVATIONS, GATED, Activation, Arguments, BackwardArguments, Gradients, Results
from .choice import FAMILY, describe

__all__ = ["gelu"]


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
            The first N / 2 columns, Shazeer's W, are the gate, which goes through the function. The others, his V, are
            multiplied by it. ModernBERT's `Wi` has the same order. N must be even then.
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
    arguments = Arguments(x, bias, activation)
    _check(arguments)
    arguments = _cast(arguments)
    chosen = FAMILY.choose(backend, describe(arguments))
    if chosen == "reference":
        with without_autocast(x.device.type):
            return reference.gelu(**arguments._asdict())
    y: Tensor = _gelu(arguments, chosen)
    return y


def _check(arguments: Arguments) -> None:
    name = "gelu"
    x, bias, activation = arguments
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
    checks.shape(name, "bias", bias, (x.shape[1],), "the last dimension of x")
    checks.dtype(name, "bias", bias, checks.FLOATS)
    checks.same_device(name, "x", x, bias=bias)


def _cast(arguments: Arguments) -> Arguments:
    """The call in the dtypes that backends take."""
    x, bias, activation = arguments
    dtype = autocast_dtype(x)
    return Arguments(x.to(dtype), None if bias is None else bias.to(accumulation_dtype(dtype)), activation)


def _forward_fake(arguments: Arguments, backend: str) -> Results:
    x = arguments.x
    tokens, width = x.shape
    return Results(y=x.new_empty((tokens, width // 2 if arguments.activation in GATED else width)))


def _backward_fake(arguments: BackwardArguments, backend: str) -> Gradients:
    x, bias = arguments.x, arguments.bias
    return Gradients(
        dx=x.new_empty(tuple(x.shape)),
        dbias=x.new_empty((0,) if bias is None else tuple(bias.shape), dtype=accumulation_dtype(x.dtype)),
    )


_gelu = operation(FAMILY, forward=_forward_fake, backward=_backward_fake)
