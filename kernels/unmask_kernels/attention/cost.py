"""What attention must compute and move, for rooflines: useful work only, never padding.

Shapes: lengths (S,) of the documents; H heads of K elements. Work is counted in pairs of a row and a column that it
sees: the sum of s_i^2, or what a causal mask and a window leave of it.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["bytes_backward", "bytes_forward", "flops_backward", "flops_forward", "pairs"]


def pairs(length: int, *, causal: bool = False, window: int | None = None) -> int:
    """Pairs of a row and a column that it sees in one document."""
    reach = length - 1 if window is None else min(window, length - 1)
    # columns to the left of the diagonal: the first rows have fewer than `reach` of them
    left = reach * length - reach * (reach + 1) // 2
    return max(0, length + left * (1 if causal else 2))


def flops_forward(
    lengths: Iterable[int], heads: int, head_dim: int, *, causal: bool = False, window: int | None = None
) -> int:
    """Two products of K multiplications and additions per pair and head."""
    return sum(4 * pairs(length, causal=causal, window=window) * heads * head_dim for length in lengths)


def flops_backward(
    lengths: Iterable[int], heads: int, head_dim: int, *, causal: bool = False, window: int | None = None
) -> int:
    """Five products: the scores again, dP, dV, dQ and dK."""
    return flops_forward(lengths, heads, head_dim, causal=causal, window=window) * 5 // 2


def bytes_forward(tokens: int, heads: int, head_dim: int, itemsize: int) -> int:
    """Read q, k, v and write out once; write one fp32 log-sum-exp per row and head."""
    return tokens * heads * (4 * head_dim * itemsize + 4)


def bytes_backward(tokens: int, heads: int, head_dim: int, itemsize: int) -> int:
    """Read q, k, v, out, dout and the log-sum-exp, write dq, dk, dv."""
    return tokens * heads * (8 * head_dim * itemsize + 4)
