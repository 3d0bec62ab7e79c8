"""What the Triton kernels of attention share: finding work, loading a tile, and which elements of it are seen.

A kernel is persistent: program i of n takes items i, i + n, ... of a range of the work list (see `documents`), longest
documents first, and reads the ends of the range from memory. So the grid depends neither on the longest document nor
on how many there are. An item is a tile or a document, and a head; heads follow each other, so that programs that run
together read the same rows of memory.

Inside a document row i sees column j when i - back <= j <= i + ahead; both are 1 << 30 where nothing is hidden, ahead
is 0 when causal. Tiles start at multiples of their size, so a document gives the same bits wherever it is packed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from unmask_kernels._triton.random import keep_scores

__all__ = ["entry", "keep_tile", "load_clamped", "load_rows", "partners", "store_rows", "visible"]


@triton.jit
def entry(tiles_ptr, index):
    """(document, first row, first token, length) of one line of the work list; the first token in int64."""
    line = tiles_ptr + index * 4
    return tl.load(line), tl.load(line + 1), tl.load(line + 2).to(tl.int64), tl.load(line + 3)


@triton.jit
def _rows(ptr, first, length, stride: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    row = tl.arange(0, BLOCK)[:, None]
    col = tl.arange(0, BLOCK_K)[None, :]
    mask = first + row < length
    if BLOCK_K != K:
        mask &= col < K
    # in int64: a long row of tokens has more than 2**31 elements. Multiplied at once: else parts of the address stay in
    # registers from one tile to the next
    return ptr + tl.cast(first + row, tl.int64) * stride + col, mask


@triton.jit
def load_rows(ptr, first, length, stride: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """Rows first : first + BLOCK of a document whose first element is at ptr, (BLOCK, BLOCK_K), 0 past its end."""
    pointers, mask = _rows(ptr, first, length, stride, K, BLOCK, BLOCK_K)
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def load_clamped(ptr, first, length, stride: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """As load_rows, with the last row of the document in place of those past its end."""
    row = tl.minimum(first + tl.arange(0, BLOCK), length - 1)[:, None]
    col = tl.arange(0, BLOCK_K)[None, :]
    pointers = ptr + tl.cast(row, tl.int64) * stride + col
    if BLOCK_K == K:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=col < K, other=0.0)


@triton.jit
def store_rows(
    ptr, value, first, length, stride: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr
):
    """The inverse of load_rows; rounds to the type of ptr."""
    pointers, mask = _rows(ptr, first, length, stride, K, BLOCK, BLOCK_K)
    tl.store(pointers, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def partners(first, back, ahead, length, SIZE: tl.constexpr, STEP: tl.constexpr):
    """Range of tiles of STEP that members first : first + SIZE see; exchange back and ahead to ask who sees them."""
    low = tl.maximum(first - back, 0) // STEP * STEP
    high = tl.minimum(first + SIZE + ahead, length)
    # nothing for a tile past the end: lists have tiles of 128 rows, a kernel may work on parts of them
    return low, tl.where(first < length, high, low)


@triton.jit
def visible(
    row, column, back, ahead, length, BANDED: tl.constexpr
):  # fmt: skip
    """Which elements of a tile a row sees, for rows and columns of broadcastable shapes; rows past the end may see."""
    seen = column < length
    if BANDED:
        seen = seen & (row - column <= back) & (column - row <= ahead)
    return seen


@triton.jit
def keep_tile(
    dropout, first_row, first_column, length,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TRANSPOSED: tl.constexpr = False,
):  # fmt: skip
    """bool (ROWS, COLUMNS), or (COLUMNS, ROWS) if TRANSPOSED: the elements of a tile that survive dropout.

    `dropout` is (key_ptr, keys_ptr, words_ptr, document, head, start, tokens, threshold, HEADS). Without words the
    elements are drawn here; else words are read, which `_triton_dropout` drew, by column where TRANSPOSED.
    """
    key_ptr, keys_ptr, words_ptr, document, head, start, tokens, threshold, HEADS = dropout
    if words_ptr is None:
        key, document_key = tl.load(key_ptr), tl.load(keys_ptr + document)
        keep = keep_scores(key, document_key, head, first_row, first_column, threshold, ROWS, COLUMNS)
        if TRANSPOSED:
            keep = tl.trans(keep)
    elif TRANSPOSED:
        keep = _expand(words_ptr, head, start, tokens, first_column, first_row, length, HEADS, COLUMNS, ROWS)
    else:
        keep = _expand(words_ptr, head, start, tokens, first_row, first_column, length, HEADS, ROWS, COLUMNS)
    return keep


@triton.jit
def _expand(
    words_ptr, head, start, tokens, first, other, length,
    HEADS: tl.constexpr, MEMBERS: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """bool (MEMBERS, OTHERS): the bits of members first : first + MEMBERS for other : other + OTHERS."""
    tl.static_assert(OTHERS % 32 == 0, "a tile that reads words has whole ones")
    words_ptr += tl.cast(head, tl.int64) * tokens + start
    member = first + tl.arange(0, MEMBERS)
    bit = tl.arange(0, OTHERS)[None, :]
    words = tl.zeros((MEMBERS, OTHERS), dtype=tl.int32)
    # a load a word: with a tile of words and a reshape sm_90 would wait for each product alone
    for word in tl.static_range(OTHERS // 32):
        line = tl.cast(other // 32 + word, tl.int64) * (HEADS * tokens)
        some = tl.load(words_ptr + line + member, mask=member < length, other=0)
        words = tl.where(bit // 32 == word, some[:, None], words)
    # of a column, a thread of a tensor core's result has bits 1 and 2 to itself: a shift a word, the rest are constants
    return ((words >> (bit & 6)) & (1 << (bit & 25))) != 0
