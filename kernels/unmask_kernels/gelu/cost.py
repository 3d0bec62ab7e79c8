"""What a gelu call has to move, at best: the number a backend is measured against.

`width` is that of the output, F; gated forms read 2 F columns.
"""

from __future__ import annotations

__all__ = ["bytes_backward", "bytes_forward"]


def bytes_forward(tokens: int, width: int, itemsize: int, *, gated: bool = False, bias: bool = True) -> int:
    """Read x, write y, `itemsize` bytes an element; the bias in fp32."""
    return (2 + gated) * tokens * width * itemsize + 4 * bias * (1 + gated) * width


def bytes_backward(tokens: int, width: int, itemsize: int, *, gated: bool = False, bias: bool = True) -> int:
    """Read dy and x, write dx; read the bias and write its gradient."""
    return (3 + 2 * gated) * tokens * width * itemsize + 8 * bias * (1 + gated) * width
