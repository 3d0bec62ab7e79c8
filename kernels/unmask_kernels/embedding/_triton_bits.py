"""Which elements dropout keeps, a bit each in memory: uint8 (T, ceil(D / 8)), the lowest bit for the first column.

Both passes of the backward need them: drawing them again would cost each pass a third of its instructions again,
writing them costs the forward a fifth.
"""

from __future__ import annotations

import triton
import triton.language as tl

from unmask_kernels._triton.random import row_words, spread

__all__ = ["draw_bits", "load_bits"]


@triton.jit
def _pair(word, threshold):
    return ((word & 0xFFFF) >= threshold).to(tl.int32) | (((word >> 16) >= threshold).to(tl.int32) << 1)


@triton.jit
def draw_bits(
    bits_ptr, key, row_keys, threshold, at, in_rows, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    """keep, bool (ROWS, BLOCK), as `keep_rows` has it, for whole rows `at` (ROWS,); written on the way."""
    GROUPS: tl.constexpr = BLOCK // 8
    BYTES: tl.constexpr = (COLS + 7) // 8
    least = threshold.to(tl.uint32)
    w0, w1, w2, w3 = row_words(key, row_keys, ROWS, GROUPS)
    byte = _pair(w0, least) | (_pair(w1, least) << 2) | (_pair(w2, least) << 4) | (_pair(w3, least) << 6)
    group = tl.arange(0, GROUPS)
    mask = in_rows[:, None] & (group < BYTES)[None, :]
    tl.store(bits_ptr + at[:, None] * BYTES + group[None, :], byte.to(tl.uint8), mask=mask)
    return spread(w0, w1, w2, w3, ROWS, GROUPS) >= least


@triton.jit
def load_bits(bits_ptr, at, in_rows, first_col, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr):
    """keep, bool (ROWS, BLOCK), of the rows `at` (ROWS,) from column `first_col`, a multiple of 8."""
    GROUPS: tl.constexpr = BLOCK // 8
    BYTES: tl.constexpr = (COLS + 7) // 8
    group = first_col // 8 + tl.arange(0, GROUPS)
    mask = in_rows[:, None] & (group < BYTES)[None, :]
    byte = tl.load(bits_ptr + at[:, None] * BYTES + group[None, :], mask=mask, other=0).to(tl.int32)
    bits = byte[:, :, None] >> tl.arange(0, 8)[None, None, :]
    return (tl.reshape(bits, (ROWS, BLOCK)) & 1) != 0
