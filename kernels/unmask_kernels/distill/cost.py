"""What the losses of distill must compute and move at best, forward and gradients together: useful work, no padding.

Shapes: lengths (S,) of the documents; H heads; K elements of a head of the student, G of one of the teacher; R rows, D
and E columns of hidden states, C classes. Every pair of tokens of a document is seen.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "bytes_hidden",
    "bytes_pairs",
    "bytes_prediction",
    "flops_by_gram",
    "flops_by_tiles",
    "flops_hidden",
    "flops_relation",
    "flops_score",
]


def flops_by_tiles(length: int, head_dim: int, teacher_dim: int) -> int:
    """The score loss of a document and head by its scores: two products for the scores, two for the gradients."""
    return 2 * length * length * (head_dim + teacher_dim + 2 * head_dim)


def flops_by_gram(length: int, head_dim: int, teacher_dim: int) -> int:
    """The same by Gram matrices: three of q, three of k, and two products of each with the rows for the gradients."""
    matrices = head_dim * head_dim + head_dim * teacher_dim + teacher_dim * teacher_dim
    return 4 * length * (matrices + head_dim * (head_dim + teacher_dim))


def flops_score(lengths: Iterable[int], heads: int, head_dim: int, teacher_dim: int) -> int:
    """The score loss, each document by the way that takes less."""
    ways = (flops_by_tiles, flops_by_gram)
    return heads * sum(min(way(length, head_dim, teacher_dim) for way in ways) for length in lengths)


def flops_relation(lengths: Iterable[int], heads: int, head_dim: int, teacher_dim: int) -> int:
    """The relation loss: the products of the scores and of the gradients, once."""
    return heads * sum(flops_by_tiles(length, head_dim, teacher_dim) for length in lengths)


def bytes_pairs(tokens: int, heads: int, head_dim: int, teacher_dim: int, itemsize: int) -> int:
    """Either loss of attention: read q and k of both, write two gradients."""
    return tokens * heads * (4 * head_dim + 2 * teacher_dim) * itemsize


def flops_hidden(rows: int, width: int, teacher_width: int) -> int:
    """The projection, and the products for the gradients of the student and of the projection."""
    return 6 * rows * width * teacher_width


def bytes_hidden(rows: int, width: int, teacher_width: int, itemsize: int) -> int:
    """Read both states and the fp32 projection, write the gradients of the student and of the projection."""
    return rows * (2 * width + teacher_width) * itemsize + 8 * width * teacher_width


def bytes_prediction(rows: int, classes: int, itemsize: int) -> int:
    """Read both logits, write the gradient."""
    return 3 * rows * classes * itemsize
