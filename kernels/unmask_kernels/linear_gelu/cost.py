"""What a linear_gelu call has to compute and move, at best: the number a backend is measured against.

Shapes: T tokens, D columns of x, F columns of y; gated forms have N = 2 F rows of weight, the others N = F.
"""

from __future__ import annotations

__all__ = ["bytes_backward", "bytes_forward", "flops_backward", "flops_forward"]


def flops_forward(tokens: int, depth: int, width: int, *, gated: bool = False) -> int:
    """The product; bias and activation are 25 operations beside its 2 D."""
    return 2 * tokens * depth * (1 + gated) * width


def flops_backward(tokens: int, depth: int, width: int, *, gated: bool = False) -> int:
    """The products for the gradients of x and of the weight."""
    return 2 * flops_forward(tokens, depth, width, gated=gated)


def bytes_forward(tokens: int, depth: int, width: int, itemsize: int, *, gated: bool = False, keep: bool = True) -> int:
    """Read x and the fp32 weight, write y and, to `keep` for the backward, z; `itemsize` bytes an activation."""
    columns = (1 + gated) * width
    return tokens * (depth + width + keep * columns) * itemsize + 4 * columns * depth


def bytes_backward(tokens: int, depth: int, width: int, itemsize: int, *, gated: bool = False) -> int:
    """Read dy, z and x, write dz, and read it for each of two products; read the weight, write both gradients."""
    columns = (1 + gated) * width
    activations = tokens * (width + 4 * columns + 2 * depth)
    return (activations + columns * depth) * itemsize + 4 * columns * depth
