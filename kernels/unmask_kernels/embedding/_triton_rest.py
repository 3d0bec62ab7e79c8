"""What the passes of the embedding's backward leave, in one launch: rows that no single chunk owns, sums of sums.

    programs  | sums over chunks: dweight, dbias, a row of dsegment a segment  | rows of dposition | rows of dword |

A row of a table whose run lies in several chunks is the sum of what these left; a row that nothing read is zero; any
other was written by the pass. The first programs have the longest way, each 64 columns of one sum; the others write,
for the most part, the 4 D bytes of each row of dword that does not occur.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["rest_kernel"]


@triton.jit
def _add_chunks(from_ptr, stride, first, end, col, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr):
    # Sum of the rows `first` to `end` of a buffer at the columns col (BLOCK,), many at a time.
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for start in range(first, end, ROWS):
        chunk = start + tl.arange(0, ROWS)
        mask = (chunk < end)[:, None] & (col < COLS)[None, :]
        total += tl.load(from_ptr + chunk.to(tl.int64)[:, None] * stride + col[None, :], mask=mask, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _add_sums(to_ptr, from_ptr, stride, chunks, block, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr):
    col = block * BLOCK + tl.arange(0, BLOCK)
    tl.store(to_ptr + col, _add_chunks(from_ptr, stride, 0, chunks, col, ROWS, BLOCK, COLS), mask=col < COLS)


@triton.jit
def _finish_rows(
    table_ptr, runs_ptr, shared_ptr, first, rows, chunk, block,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    # Rows of a table whose run begins at runs[STRIDE * row] and ends at runs[STRIDE * row + 1].
    col = block * BLOCK + tl.arange(0, BLOCK)
    row = first + tl.arange(0, ROWS)
    begin = tl.load(runs_ptr + row * STRIDE, mask=row < rows, other=0)
    end = tl.load(runs_ptr + row * STRIDE + 1, mask=row < rows, other=1)
    unread = (begin == end)[:, None] & (col < COLS)[None, :]
    at = row.to(tl.int64)[:, None] * COLS + col[None, :]
    tl.store(table_ptr + at, tl.zeros((ROWS, BLOCK), dtype=tl.float32), mask=unread)
    for one in range(first, tl.minimum(first + ROWS, rows)):
        low, high = tl.load(runs_ptr + one * STRIDE), tl.load(runs_ptr + one * STRIDE + 1)
        head_chunk, last_chunk = low // chunk, (high - 1) // chunk
        if (low < high) & (head_chunk < last_chunk):
            head = tl.load(shared_ptr + (head_chunk.to(tl.int64) * 2 + 1) * COLS + col, mask=col < COLS, other=0.0)
            total = _add_chunks(shared_ptr, 2 * COLS, head_chunk + 1, last_chunk + 1, col, ROWS, BLOCK, COLS)
            tl.store(table_ptr + tl.cast(one, tl.int64) * COLS + col, head + total, mask=col < COLS)


@triton.jit(do_not_specialize=["words", "places", "chunk", "chunks"])
def rest_kernel(
    dword_ptr, runs_ptr, word_shared_ptr, word_sums_ptr, dposition_ptr, before_ptr, place_shared_ptr, place_sums_ptr,
    dweight_ptr, dbias_ptr, dsegment_ptr,
    words, places, chunk, chunks,
    COLS: tl.constexpr, ADDED: tl.constexpr, SEGMENTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    NARROW: tl.constexpr,
):  # fmt: skip
    """Both tables have `chunks` chunks of `chunk` tokens. ADDED rows of dsegment have sums, those beyond are zero."""
    NARROWS: tl.constexpr = (COLS + NARROW - 1) // NARROW
    BLOCKS: tl.constexpr = (COLS + BLOCK - 1) // BLOCK
    MANY: tl.constexpr = ROWS * 4
    program = tl.program_id(0)
    sums, narrow = program // NARROWS, program % NARROWS
    first_block = program - (2 + SEGMENTS) * NARROWS
    block = first_block % BLOCKS
    first = first_block // BLOCKS * ROWS
    of_places = (places + ROWS - 1) // ROWS * ROWS
    if sums == 0:
        _add_sums(dweight_ptr, word_sums_ptr, 2 * COLS, chunks, narrow, MANY, NARROW, COLS)
    elif sums == 1:
        _add_sums(dbias_ptr, word_sums_ptr + COLS, 2 * COLS, chunks, narrow, MANY, NARROW, COLS)
    elif first_block < 0:
        one = (sums - 2) * COLS
        many = tl.where(sums - 2 < ADDED, chunks, 0)
        _add_sums(dsegment_ptr + one, place_sums_ptr + one, ADDED * COLS, many, narrow, MANY, NARROW, COLS)
    elif first < of_places:
        _finish_rows(dposition_ptr, before_ptr, place_shared_ptr, first, places, chunk, block, 1, ROWS, BLOCK, COLS)
    else:
        first -= of_places
        _finish_rows(dword_ptr, runs_ptr, word_shared_ptr, first, words, chunk, block, 2, ROWS, BLOCK, COLS)
