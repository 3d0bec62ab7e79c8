"""What a layer_norm call has to move, at best: the number a backend is measured against."""

from __future__ import annotations

__all__ = ["bytes_backward", "bytes_forward"]


def bytes_forward(tokens: int, width: int, itemsize: int, *, residual: bool = True, x_bias: bool = False) -> int:
    """Read x and residual, write y, `itemsize` bytes an element; mean and rstd in fp32; parameters."""
    return (2 + residual) * tokens * width * itemsize + 8 * tokens + (8 + 4 * x_bias) * width


def bytes_backward(
    tokens: int, width: int, itemsize: int, *, residual: bool = True, dropout: bool = False, x_bias: bool = False
) -> int:
    """Read dy, x, residual, mean, rstd; write dresidual, and dx where dropout makes it another tensor."""
    tensors = 3 + residual + (dropout and residual)
    return tensors * tokens * width * itemsize + 8 * tokens + (12 + 8 * x_bias) * width
