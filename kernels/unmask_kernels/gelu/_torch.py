"""gelu on PyTorch's vectorised kernels: the fast backend on CPU, and a plain one on GPUs.

These kernels compute in fp32 whatever the dtype. Without a bias and a gate they run on all of x at once. With a bias,
its sum with x must not be rounded to 16 bits. So on a CPU rows are widened a block at a time, whose fp32 values stay
in cache, and the gradient of the bias is summed in fp32 from there.

Traffic per element of y of s bytes: forward 2 s (gated 3 s), backward 3 s (gated 5 s).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..precision import accumulation_dtype
from .arguments import GATED, Arguments, BackwardArguments, Gradients, Results

__all__ = ["backward", "forward"]

_BLOCK = 3 << 17  # elements of x widened at a time by each thread, 1.5 MiB of fp32
_APPROXIMATE = {"gelu": "none", "geglu": "none", "gelu_tanh": "tanh"}


def forward(arguments: Arguments) -> Results:
    """Apply the activation to a block of rows at a time, or to all in one call."""
    x, bias, activation = arguments
    gated = activation in GATED
    if bias is None and not gated:
        return Results(_function(x.contiguous(), activation))
    tokens, width = x.shape
    y = x.new_empty((tokens, width // 2 if gated else width))
    buffer = _buffer(x, width)
    for rows in _blocks(x):
        z = _sum(buffer, x[rows], bias)
        if gated:
            gate, value = z.chunk(2, dim=-1)
            y[rows] = _function(gate, activation, out=gate).mul_(value)
        else:
            y[rows] = _function(z, activation, out=z)
    return Results(y)


def backward(arguments: BackwardArguments) -> Gradients:
    """Differentiate a block of rows at a time, or all in one call; dbias adds up over blocks."""
    dy, x, bias, activation = arguments
    gated = activation in GATED
    if bias is None and not gated:
        empty = x.new_empty(0, dtype=accumulation_dtype(x.dtype))
        return Gradients(_slope_times(dy.contiguous(), x.contiguous(), activation), empty)
    tokens, width = x.shape
    dx = x.new_empty((tokens, width))
    dbias = torch.zeros(width if bias is not None else 0, dtype=accumulation_dtype(x.dtype), device=x.device)
    columns = slice(0, width // 2 if gated else width)
    buffer, incoming, spare = _buffer(x, width), _buffer(x, dy.shape[1]), _buffer(x, dy.shape[1] if gated else 0)
    for rows in _blocks(x):
        z = _sum(buffer, x[rows], bias)
        gradient = incoming[: len(z)].copy_(dy[rows])
        gate = z[:, columns]
        if gated:
            others = slice(width // 2, width)
            of_value = _function(gate, activation, out=spare[: len(z)]).mul_(gradient)
            dx[rows, others] = of_value
            gradient.mul_(z[:, others])
            if bias is not None:
                dbias[others] += of_value.sum(0)
        of_gate = _slope_times(gradient, gate, activation, out=gradient)
        dx[rows, columns] = of_gate
        if bias is not None:
            dbias[columns] += of_gate.sum(0)
    return Gradients(dx, dbias)


def _block_rows(x: Tensor) -> int:
    """Rows to work on at a time: all on a GPU, what fits in cache on a CPU."""
    tokens, width = x.shape
    if x.device.type != "cpu":
        return max(1, tokens)
    return max(1, min(tokens, _BLOCK * torch.get_num_threads() // max(1, width)))


def _blocks(x: Tensor) -> Iterator[slice]:
    size = _block_rows(x)
    return (slice(start, start + size) for start in range(0, len(x), size))


def _buffer(x: Tensor, width: int) -> Tensor:
    """A block of `width` columns in the accumulation dtype."""
    return x.new_empty((_block_rows(x), width), dtype=accumulation_dtype(x.dtype))


def _sum(buffer: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """x + bias in the accumulation dtype, in `buffer`."""
    z = buffer[: len(x)].copy_(x)
    return z if bias is None else z.add_(bias)


def _function(z: Tensor, activation: str, out: Tensor | None = None) -> Tensor:
    """Returns the activation of z, or of a gate z, in `out`, which may be z; if `out` is None, in a new tensor."""
    if activation == "swiglu":
        return torch.ops.aten.silu.out(z, out=out)
    kind = _APPROXIMATE[activation]
    if out is None:
        return torch.ops.aten.gelu(z, approximate=kind)
    return torch.ops.aten.gelu.out(z, approximate=kind, out=out)


def _slope_times(dy: Tensor, z: Tensor, activation: str, out: Tensor | None = None) -> Tensor:
    """Returns dy times the derivative at z in `out`, which may be dy; if `out` is None, in a new tensor."""
    if activation == "swiglu":
        return torch.ops.aten.silu_backward.grad_input(dy, z, grad_input=out)
    kind = _APPROXIMATE[activation]
    if out is None:
        return torch.ops.aten.gelu_backward(dy, z, approximate=kind)
    return torch.ops.aten.gelu_backward.grad_input(dy, z, approximate=kind, grad_input=out)
