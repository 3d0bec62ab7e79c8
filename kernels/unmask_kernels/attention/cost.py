"""What attention must compute and move, for rooflines: useful work is the sum of s_i^2, never padding.

Shapes: lengths (S,) of the documents; H heads of K elements.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["bytes_backward", "bytes_forward", "flops_backward", "flops_forward"]


def flops_forward(lengths: Iterable[int], heads: int, head_dim: int, *, causal: bool = False) -> int:
    """Two products of s x s x K per head and document; half of it when causal."""
    full = sum(4 * length * length * heads * head_dim for length in lengths)
    return full // 2 if causal else full


def flops_backward(lengths: Iterable[int], heads: int, head_dim: int, *, causal: bool = False) -> int:
    """Five products: the scores again, dP, dV, dQ and dK."""
    return flops_forward(lengths, heads, head_dim, causal=causal) * 5 // 2


def bytes_forward(tokens: int, heads: int, head_dim: int, itemsize: int) -> int:
    """Read q, k, v and write out once; write one fp32 log-sum-exp per row and head."""
    return tokens * heads * (4 * head_dim * itemsize + 4)


def bytes_backward(tokens: int, heads: int, head_dim: int, itemsize: int) -> int:
    """Read q, k, v, out, dout and the log-sum-exp, write dq, dk, dv."""
    return tokens * heads * (8 * head_dim * itemsize + 4)
