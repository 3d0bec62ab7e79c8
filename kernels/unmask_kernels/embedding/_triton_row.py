"""What the kernels of embedding do with a row: sum the three tables, draw and read the bitmask of dropout.

Two kernels of the backward need what dropout keeps. To draw it again would cost more than the rest of their work. To
read it costs two instructions an element and one load a row. `row_layout` says where a bit lies.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .._triton.random import row_words, spread

__all__ = ["draw_bitmask", "gather_sum", "kept", "load_bitmask", "store_bitmask"]


@triton.jit
def gather_sum(
    word_ptr, position_ptr, segment_ptr, word_row, position_row, segment_row, col, COLS: tl.constexpr
):  # fmt: skip
    """h at the columns `col`, 0 beyond the last. word_row, ...: index of the first element of the row in its table."""
    h = tl.load(word_ptr + word_row + col, mask=col < COLS, other=0.0)
    h += tl.load(position_ptr + position_row + col, mask=col < COLS, other=0.0)
    return h + tl.load(segment_ptr + segment_row + col, mask=col < COLS, other=0.0)


@triton.jit
def _pair(w, threshold):
    return ((w & 0xFFFF) >= threshold).to(tl.int32) | (((w >> 16) >= threshold).to(tl.int32) << 1)


@triton.jit
def draw_bitmask(
    bitmask_ptr, key, row_keys, threshold, row, in_rows, PART: tl.constexpr, TILE: tl.constexpr, BITMASK: tl.constexpr
):  # fmt: skip
    """keep, bool (ROWS, BLOCK), as `keep_rows` draws it, for a part of the rows `row` (ROWS,). Stores its bits too."""
    ROWS: tl.constexpr = TILE.rows
    GROUPS: tl.constexpr = TILE.block // 8
    least = threshold.to(tl.uint32)
    w0, w1, w2, w3 = row_words(key, row_keys, PART * GROUPS, ROWS, GROUPS)
    byte = _pair(w0, least) | (_pair(w1, least) << 2) | (_pair(w2, least) << 4) | (_pair(w3, least) << 6)
    store_bitmask(bitmask_ptr, byte, row, in_rows, PART, GROUPS, BITMASK)
    return spread(w0, w1, w2, w3, ROWS, GROUPS) >= least


@triton.jit
def store_bitmask(bitmask_ptr, byte, row, in_rows, PART: tl.constexpr, GROUPS: tl.constexpr, BITMASK: tl.constexpr):
    """Store `byte`, int32 (ROWS, GROUPS): a byte for every eight columns of a part. The pointer is to bytes."""
    INTEGERS: tl.constexpr = BITMASK.integers
    BYTES: tl.constexpr = BITMASK.bytes
    group = PART * GROUPS + tl.arange(0, GROUPS)
    mask = in_rows[:, None] & (group < INTEGERS * BYTES)[None, :]
    offset = (group % INTEGERS) * BYTES + group // INTEGERS
    tl.store(bitmask_ptr + row[:, None] * (INTEGERS * BYTES) + offset[None, :], byte.to(tl.uint8), mask=mask)


@triton.jit
def load_bitmask(bitmask_ptr, row, BLOCK: tl.constexpr):
    """For each lane of BLOCK // 4 its integer, shifted so that the lane's bits are the lower four of each byte."""
    lane = tl.arange(0, BLOCK // 4)
    bits = tl.load(bitmask_ptr + row * (BLOCK // 8) + lane // 2)
    if bits.dtype != tl.int64:
        bits = bits.to(tl.int32)
    return bits >> (lane % 2 * 4).to(bits.dtype)  # (BLOCK // 4,)


@triton.jit
def kept(bits, PART: tl.constexpr, BLOCK: tl.constexpr):
    """keep, bool (BLOCK,), of a part of the row whose integers `load_bitmask` gave."""
    if PART >= 4:
        bits >>= 32
    chosen = bits.to(tl.int32)[:, None] & (1 << (PART % 4 * 8 + tl.arange(0, 4)))[None, :]
    return tl.reshape(chosen, (BLOCK,)) != 0
