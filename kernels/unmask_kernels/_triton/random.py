"""The addressed dropout stream on the device, bit-equal to `unmask_kernels.philox`.

One Philox-4x32-10 call gives four words of 32 bits. They are eight lanes of 16 bits, one for each of eight neighbouring
columns: the low half of word 0, its high half, the low half of word 1, and so on. Joining halves and words as below
puts the lanes in the order of the columns inside one thread's registers, so no value crosses threads.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["keep_rows", "keep_scores", "lanes", "row_words", "spread"]


@triton.jit
def spread(w0, w1, w2, w3, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """The eight lanes of each call side by side: uint32 (ROWS, 8 * GROUPS), each below 2**16."""
    words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (ROWS, 4 * GROUPS))  # w0 w1 w2 w3 w0 ...
    return tl.reshape(tl.join(words & 0xFFFF, words >> 16), (ROWS, 8 * GROUPS))


@triton.jit
def lanes(key, c0, c1, c2, c3, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """uint32 (ROWS, 8 * GROUPS), each below 2**16, for counters uint32 (ROWS, GROUPS) and an int64 key."""
    w0, w1, w2, w3 = tl.philox(key, c0, c1, c2, c3)  # (ROWS, GROUPS)
    return spread(w0, w1, w2, w3, ROWS, GROUPS)


@triton.jit
def row_words(key, row_keys, first_group, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """Four words uint32 (ROWS, GROUPS): row keys int64 (ROWS,), and groups of eight columns from `first_group`."""
    zero = tl.zeros((ROWS, GROUPS), dtype=tl.uint32)
    group = (first_group + tl.arange(0, GROUPS)).to(tl.uint32)[None, :] + zero
    low = (row_keys & 0xFFFFFFFF).to(tl.uint32)[:, None] + zero
    high = ((row_keys >> 32) & 0xFFFFFFFF).to(tl.uint32)[:, None] + zero
    return tl.philox(key, group, zero, low, high)


@triton.jit
def keep_rows(key, row_keys, threshold, first_column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """bool (ROWS, COLUMNS): which elements survive, for row keys int64 (ROWS,) and columns from a multiple of 8."""
    w0, w1, w2, w3 = row_words(key, row_keys, first_column // 8, ROWS, COLUMNS // 8)
    return spread(w0, w1, w2, w3, ROWS, COLUMNS // 8) >= threshold.to(tl.uint32)


@triton.jit
def keep_scores(
    key, document_key, head, first_row, first_column, threshold, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """bool (ROWS, COLUMNS): which attention probabilities survive, for a tile of one document and head.

    Rows and columns count inside the document; first_column is a multiple of 8. One call serves 8 columns of a row.
    """
    zero = tl.zeros((ROWS, COLUMNS // 8), dtype=tl.uint32)
    row = (first_row + tl.arange(0, ROWS)).to(tl.uint32)[:, None]
    group = (first_column // 8 + tl.arange(0, COLUMNS // 8)).to(tl.uint32)[None, :]
    low = (document_key & 0xFFFFFFFF).to(tl.uint32) + zero
    high = ((document_key >> 32) & 0xFFFFFFFF).to(tl.uint32) + zero
    words = lanes(key, (row << 16) | group, tl.cast(head, tl.uint32) + zero, low, high, ROWS, COLUMNS // 8)
    return words >= threshold.to(tl.uint32)
