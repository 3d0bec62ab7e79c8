"""What an embedding call has to move and compute, at best: the number a backend is measured against.

T tokens, D columns, outputs of `itemsize` bytes an element, fp32 tables of V words and P positions. Rows of the word
table are read once a token, the small tables once.
"""

from __future__ import annotations

__all__ = ["bytes_backward", "bytes_forward", "flops_backward", "flops_forward"]


def bytes_forward(tokens: int, width: int, itemsize: int, *, positions: int) -> int:
    """Read a row of the word table, an id, a position and a segment (24 bytes) a token; write y, mean and rstd."""
    return tokens * (width * (4 + itemsize) + 24 + 8) + 4 * width * (positions + 2)


def bytes_backward(tokens: int, width: int, itemsize: int, *, vocabulary: int, positions: int) -> int:
    """Read dy and what the forward read, with mean and rstd; write the dense gradients of the tables in fp32."""
    read = tokens * (width * (4 + itemsize) + 24 + 8) + 4 * width * (positions + 2)
    return read + 4 * width * (vocabulary + positions + 2)


def flops_forward(tokens: int, width: int) -> int:
    """Two sums, mean, centre, square and sum, scale, weight, bias: 9 an element, without the random numbers."""
    return 9 * tokens * width


def flops_backward(tokens: int, width: int) -> int:
    """The sums and the normalised row again, dh, dweight, dbias, and one addition for each of three tables: 18."""
    return 18 * tokens * width
