"""Documents as the attention kernels see them: items of work, rows of q, k and v, and which tokens a token sees.

A kernel is persistent: its programs share the items of a range of the work list (see `documents`), and read the ends of
the range from memory. So the size of the grid depends neither on the longest document nor on the number of documents.
An item is a document, or one tile of it, and a head. The heads of a tile follow each other, so programs that run at the
same time read the same rows of memory.

The list starts with the longest documents. Where items cost the same, program i of n takes items i, i + n, ...
Elsewhere it takes item i, and then the next one that no program has (`next_number`), so that all programs end at about
the same time. What is written does not depend on who takes an item.

Token i of a document sees token j when i - left <= j <= i + right. Both are 1 << 30 where nothing is hidden, and right
is 0 when attention is causal. Tiles start at multiples of their size from the start of the document, so a document
gives the same bits wherever it is packed.

Shapes: T tokens, H heads of K elements. q, k, v and their gradients are (BLOCK, block_k) in a kernel, where BLOCK is
rows or columns of the tile and block_k is the power of two that holds K.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

__all__ = [
    "Item",
    "Tile",
    "load_item",
    "load_rows",
    "load_rows_clamped",
    "next_number",
    "store_rows",
    "visible",
    "visible_range",
]


class Item(NamedTuple):
    """A document, or the tile of it that starts at `first_row`, and a head: what a program works on at a time.

    Attributes:
        document: index of the document, int32.
        head: int32.
        first_row: position in the document where the tile starts, int32.
        start: row of the document's first token in the batch, int64.
        length: tokens of the document, int32.
    """

    document: Any
    head: Any
    first_row: Any
    start: Any
    length: Any


class Tile(NamedTuple):
    """What a kernel is compiled for: its tile of scores, the heads, and whether attention is banded.

    Attributes:
        rows, columns: of the tile.
        heads, head_dim: H and K.
        block_k: K rounded up to a power of two.
        banded: whether attention is causal or has a window.
    """

    rows: int
    columns: int
    heads: int
    head_dim: int
    block_k: int
    banded: bool


@triton.jit
def load_item(tiles_ptr, line, head):
    """The item of a line of the work list, int32 (lines, 4)."""
    line_ptr = tiles_ptr + line * 4
    document, first_row = tl.load(line_ptr), tl.load(line_ptr + 1)
    return Item(document, head, first_row, tl.load(line_ptr + 2).to(tl.int64), tl.load(line_ptr + 3))


@triton.jit
def _row_pointers(ptr, first, length, stride: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    row = tl.arange(0, BLOCK)[:, None]
    col = tl.arange(0, TILE.block_k)[None, :]
    mask = first + row < length
    if TILE.block_k != TILE.head_dim:
        mask &= col < TILE.head_dim
    # In int64, because a long row of tokens has more than 2**31 elements. The product is formed in one step: otherwise
    # parts of the address stay in registers from one tile to the next.
    return ptr + tl.cast(first + row, tl.int64) * stride + col, mask


@triton.jit
def load_rows(ptr, first, length, stride: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """Rows first : first + BLOCK of a document whose first element is at ptr, (BLOCK, block_k); 0 past its end."""
    pointers, mask = _row_pointers(ptr, first, length, stride, BLOCK, TILE)
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def load_rows_clamped(ptr, first, length, stride: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """Like `load_rows`, but rows past the end of the document are copies of its last row."""
    row = tl.minimum(first + tl.arange(0, BLOCK), length - 1)[:, None]
    col = tl.arange(0, TILE.block_k)[None, :]
    pointers = ptr + tl.cast(row, tl.int64) * stride + col
    if TILE.block_k == TILE.head_dim:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=col < TILE.head_dim, other=0.0)


@triton.jit
def store_rows(ptr, value, first, length, stride: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """Store value (BLOCK, block_k) where `load_rows` reads, rounded to the dtype of ptr."""
    pointers, mask = _row_pointers(ptr, first, length, stride, BLOCK, TILE)
    tl.store(pointers, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def visible_range(first, left, right, length, SIZE: tl.constexpr, STEP: tl.constexpr):
    """Columns low : high that rows first : first + SIZE see, with low a multiple of STEP.

    With left and right exchanged it gives the rows that see columns first : first + SIZE.
    """
    low = tl.maximum(first - left, 0) // STEP * STEP
    high = tl.minimum(first + SIZE + right, length)
    # The work list has tiles of 128 rows. A kernel with smaller tiles may get one past the end: it sees nothing.
    return low, tl.where(first < length, high, low)


@triton.jit
def visible(row, column, left, right, length, BANDED: tl.constexpr):
    """Whether a row sees a column, for positions of broadcastable shapes. Rows past the end may see columns."""
    seen = column < length
    if BANDED:
        seen = seen & (row - column <= left) & (column - row <= right)
    return seen


@triton.jit
def next_number(tickets_ptr):
    """The next item that no program has taken, int32, counted from the first item of the launch.

    tickets_ptr: a counter of the launch, int32, which starts at 0. The first items belong to the programs that have
    their numbers.
    """
    # only this number passes from program to program, so it needs no order with other accesses
    return tl.num_programs(0) + tl.atomic_add(tickets_ptr, 1, sem="relaxed")
