"""Documents and heads as the Triton kernels of distill see them: items of the work list, tiles of q and k, pairs.

Kernels are persistent: their programs share the items of a range of `Documents.tiles`, whose ends they read from
memory, so no launch depends on the documents. An item is a document or a tile of it, and a head. Tiles start at
multiples of their size from the start of the document, and an element is summed up by one program in one order, so a
document gives the same bits wherever it is packed.

Shapes: q and k of the student are (ROWS, width) in a kernel, those of the teacher (ROWS, teacher_width), where widths
are powers of two that hold K and G; elements past K and G, and rows past the end of a document, are zeros. So they add
nothing to a product, and only a band needs a mask.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

__all__ = [
    "PairItem",
    "Scales",
    "Sources",
    "Tile",
    "load_item",
    "load_rows",
    "locate",
    "seen",
    "seen_range",
    "store_rows",
]


class Tile(NamedTuple):
    """What a kernel is compiled for.

    Attributes:
        rows: and columns of a tile of scores.
        heads: H.
        width, head_dim: of the student: the power of two that holds K, and K.
        teacher_width, teacher_dim: of the teacher: the power of two that holds G, and G.
        banded: whether attention is causal or has a window.
        split: whether products of fp32 values are made of three products of tensor cores (tf32x3).
    """

    rows: int
    heads: int
    width: int
    head_dim: int
    teacher_width: int
    teacher_dim: int
    banded: bool
    split: bool


class PairItem(NamedTuple):
    """A document, or the tile of it that starts at `first`, and a head.

    Attributes:
        document, head, first, length: int32.
        start: row of the document's first token in the batch, int64.
        factor: of the document, fp32.
    """

    document: Any
    head: Any
    first: Any
    start: Any
    length: Any
    factor: Any


class Sources(NamedTuple):
    """Where an item's document and head start in q and k of student and teacher, and the elements from row to row."""

    q_ptr: Any
    k_ptr: Any
    teacher_q_ptr: Any
    teacher_k_ptr: Any
    q_stride: Any
    k_stride: Any
    teacher_q_stride: Any
    teacher_k_stride: Any


class Scales(NamedTuple):
    """Factors of the scores of student and teacher, fp32."""

    student: Any
    teacher: Any


@triton.jit
def load_item(tiles_ptr, factors_ptr, line, head):
    """The item of a line of the work list, int32 (lines, 4)."""
    line_ptr = tiles_ptr + line * 4
    document, first = tl.load(line_ptr), tl.load(line_ptr + 1)
    start, length = tl.load(line_ptr + 2).to(tl.int64), tl.load(line_ptr + 3)
    return PairItem(document, head, first, start, length, tl.load(factors_ptr + document))


@triton.jit
def locate(item, sources, TILE: tl.constexpr):
    """The sources of an item, from those of the batch."""
    of_student, of_teacher = item.head * TILE.head_dim, item.head * TILE.teacher_dim
    return Sources(
        sources.q_ptr + item.start * sources.q_stride + of_student,
        sources.k_ptr + item.start * sources.k_stride + of_student,
        sources.teacher_q_ptr + item.start * sources.teacher_q_stride + of_teacher,
        sources.teacher_k_ptr + item.start * sources.teacher_k_stride + of_teacher,
        sources.q_stride, sources.k_stride, sources.teacher_q_stride, sources.teacher_k_stride,
    )  # fmt: skip


@triton.jit
def load_rows(ptr, first, length, stride, ROWS: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr):
    """Rows first : first + ROWS of a document whose first element is at ptr, (ROWS, WIDTH); 0 past its end."""
    row = first + tl.arange(0, ROWS)[:, None]
    col = tl.arange(0, WIDTH)[None, :]
    mask = row < length
    if WIDTH != DIM:
        mask &= col < DIM
    return tl.load(ptr + tl.cast(row, tl.int64) * stride + col, mask=mask, other=0.0)


@triton.jit
def store_rows(ptr, value, item, first, TILE: tl.constexpr):
    """Store value (ROWS, width) to the rows from `first` on of a gradient (T, H, K) at ptr, rounded to its dtype."""
    row = first + tl.arange(0, TILE.rows)[:, None]
    col = tl.arange(0, TILE.width)[None, :]
    mask = row < item.length
    if TILE.width != TILE.head_dim:
        mask &= col < TILE.head_dim
    place = (item.start + row) * (TILE.heads * TILE.head_dim) + item.head * TILE.head_dim + col
    tl.store(ptr + place, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def seen_range(item, first, left, right, TILE: tl.constexpr):
    """Columns low : high that rows first : first + ROWS see, low a multiple of ROWS; none for a factor of 0.

    With left and right exchanged it gives the rows that see columns first : first + ROWS.
    """
    low = tl.maximum(first - left, 0) // TILE.rows * TILE.rows
    high = tl.minimum(first + TILE.rows + right, item.length)
    # The work list has tiles of 128 rows: a smaller tile may begin past the end.
    return low, tl.where((first < item.length) & (item.factor != 0.0), high, low)


@triton.jit
def seen(row, column, left, right):
    """Whether a row sees a column, for positions of broadcastable shapes."""
    return (row - column <= left) & (column - row <= right)
