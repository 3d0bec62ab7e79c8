"""Which elements dropout keeps, a bit each in memory, as `parts` lays them out.

Both passes of the backward need them: drawing them again would cost a pass more than the rest of its work, reading them
costs two instructions an element and one load a row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from unmask_kernels._triton.random import row_words, spread

__all__ = ["draw_bits", "kept", "load_bits"]


@triton.jit
def _pair(word, threshold):
    return ((word & 0xFFFF) >= threshold).to(tl.int32) | (((word >> 16) >= threshold).to(tl.int32) << 1)


@triton.jit
def draw_bits(
    bits_ptr, key, row_keys, threshold, at, in_rows, PART: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    WORDS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """keep, bool (ROWS, BLOCK), as `keep_rows` has it, for a part of the rows `at` (ROWS,); written on the way."""
    GROUPS: tl.constexpr = BLOCK // 8
    least = threshold.to(tl.uint32)
    w0, w1, w2, w3 = row_words(key, row_keys, PART * GROUPS, ROWS, GROUPS)
    byte = _pair(w0, least) | (_pair(w1, least) << 2) | (_pair(w2, least) << 4) | (_pair(w3, least) << 6)
    store_bits(bits_ptr, byte, at, in_rows, PART, GROUPS, WORDS, BYTES)
    return spread(w0, w1, w2, w3, ROWS, GROUPS) >= least


@triton.jit
def store_bits(
    bits_ptr, byte, at, in_rows, PART: tl.constexpr, GROUPS: tl.constexpr, WORDS: tl.constexpr, BYTES: tl.constexpr
):  # fmt: skip
    """Bytes int32 (ROWS, GROUPS) of a part to their places in WORDS words of BYTES bytes."""
    group = PART * GROUPS + tl.arange(0, GROUPS)
    inside = in_rows[:, None] & (group < WORDS * BYTES)[None, :]
    place = (group % WORDS) * BYTES + group // WORDS
    tl.store(bits_ptr + at[:, None] * (WORDS * BYTES) + place[None, :], byte.to(tl.uint8), mask=inside)


@triton.jit
def load_bits(bits_ptr, at, BLOCK: tl.constexpr):
    """For each lane of BLOCK // 4 the word of row `at`, shifted so that its bits are the lower four of each byte."""
    lane = tl.arange(0, BLOCK // 4)
    word = tl.load(bits_ptr + at * (BLOCK // 8) + lane // 2)
    if word.dtype != tl.int64:
        word = word.to(tl.int32)
    return word >> (lane % 2 * 4).to(word.dtype)  # (BLOCK // 4,)


@triton.jit
def kept(word, PART: tl.constexpr, BLOCK: tl.constexpr):
    """keep, bool (BLOCK,), of a part of the row whose words `load_bits` gave."""
    if PART >= 4:
        word >>= 32
    bits = word.to(tl.int32)[:, None] & (1 << (PART % 4 * 8 + tl.arange(0, 4)))[None, :]
    return tl.reshape(bits, (BLOCK,)) != 0
