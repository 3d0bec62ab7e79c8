"""Gradients of the word table, weight and bias on the GPU: one pass over the tokens in the order of their ids.

    sorted ids  | 7 7 7 | 9 | 103 103 103 103 103 103 103 103 103 ... | 2050 |         a run: the tokens of one word
    chunks             | program 0   | program 1   | program 2   |

A program walks its chunk a row at a time: it reads dy and the three rows of h, forms dh in registers and adds it to the
sum of the run. At the end of a run it writes the row of the word. A run that several chunks share leaves a sum in each
of them, and `_rest_kernel` adds these up; it also writes the zeros of words that do not occur. So dh is never written,
a row of the word table is fetched once a run, and a word that is an eighth of all tokens, as [MASK] is in training, is
the work of an eighth of the programs. There are as many chunks as the GPU runs at once.

The two means over a row that dh needs are kept for `_triton_places`, which forms dh again. Every sum has one owner and
a fixed order: no atomics. Traffic of a token: its dy, 8 bytes of means, some 50 of indices; of a word, its row twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels._triton.launch import OPTIONS, persistent_programs

from ._triton_bits import load_bits
from ._triton_forward import gather_sum, row_block

__all__ = ["WordPass", "by_word"]

_WARPS_PER_MULTIPROCESSOR = 8  # with 255 registers a thread, the most that one can have
_SHORTEST_CHUNK = 8
_ONE_WARP = 768  # columns that a warp holds, with dy in 16 bits
_REST_WORDS, _REST_COLUMNS, _REST_WARPS = 16, 256, 4


@triton.jit(do_not_specialize=["rows", "chunk"])
def _words_kernel(
    dy_ptr, sorted_ptr, order_ptr, places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, weight_ptr,
    mean_ptr, rstd_ptr, bits_ptr, level_ptr, along_ptr, dword_ptr, shared_ptr, partial_ptr,
    rows, chunk, scale,
    COLS: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_DROPOUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    first = tl.program_id(0) * chunk
    end = tl.minimum(first + chunk, rows)
    col = tl.arange(0, BLOCK)
    mask = (col < COLS)[None, :]
    weight = tl.load(weight_ptr + col, mask=col < COLS, other=0.0)[None, :]  # (1, BLOCK)
    dweight = tl.zeros((1, BLOCK), dtype=tl.float32)
    dbias = tl.zeros((1, BLOCK), dtype=tl.float32)
    total = tl.zeros((1, BLOCK), dtype=tl.float32)
    # two sums: of the run that an earlier chunk began, and of the one that begins here and goes on
    shared = shared_ptr + program * 2 * COLS + col[None, :]
    word = tl.load(sorted_ptr + first)
    begun_before = word == tl.load(sorted_ptr + first - 1, mask=first > 0, other=-1)
    following_at = tl.load(order_ptr + first + tl.arange(0, 1))  # (1,)
    for slot in range(first, end):
        at = following_at
        # a row ahead, so that its loads need not wait for one another
        ahead = slot + 1 + tl.arange(0, 1)
        following_at = tl.load(order_ptr + ahead, mask=ahead < rows, other=0)
        h = gather_sum(
            word + tl.zeros((1,), dtype=tl.int32), places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr,
            at, at >= 0, col, mask, COLS, HAS_SEGMENTS,
        )  # fmt: skip
        rstd = tl.load(rstd_ptr + at)[:, None]
        normed = (h - tl.load(mean_ptr + at)[:, None]) * rstd
        dy = tl.load(dy_ptr + at[:, None] * COLS + col[None, :], mask=mask, other=0.0).to(tl.float32)  # (1, BLOCK)
        if HAS_DROPOUT:
            dy = tl.where(load_bits(bits_ptr, at, at >= 0, 0, 1, BLOCK, COLS), dy * scale, 0.0)
        dweight += dy * normed
        dbias += dy
        scaled = dy * weight
        level = tl.sum(scaled, axis=1) / COLS  # (1,)
        along = tl.sum(scaled * normed, axis=1) / COLS
        tl.store(level_ptr + at, level)
        tl.store(along_ptr + at, along)
        total += (scaled - level[:, None] - normed * along[:, None]) * rstd
        following = tl.load(sorted_ptr + slot + 1, mask=slot + 1 < rows, other=-1)
        if following != word:
            if begun_before:
                tl.store(shared, total, mask=mask)
            else:
                tl.store(dword_ptr + word.to(tl.int64) * COLS + col[None, :], total, mask=mask)
            begun_before = False
            total = tl.zeros((1, BLOCK), dtype=tl.float32)
        word = following
    if word == tl.load(sorted_ptr + end - 1):
        if begun_before:
            tl.store(shared, total, mask=mask)
        else:
            tl.store(shared + COLS, total, mask=mask)
    partial = partial_ptr + program * 2 * COLS + col[None, :]
    tl.store(partial, dweight, mask=mask)
    tl.store(partial + COLS, dbias, mask=mask)


@triton.jit(do_not_specialize=["words", "chunk"])
def _rest_kernel(
    bounds_ptr, shared_ptr, dword_ptr, words, chunk,
    COLS: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # The rows of words that do not occur, and of those in several chunks.
    first = tl.program_id(0) * WORDS
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_cols = col < COLS
    word = first + tl.arange(0, WORDS)
    inside = word < words
    begin = tl.load(bounds_ptr + word, mask=inside, other=0)
    end = tl.load(bounds_ptr + word + 1, mask=inside, other=1)
    unread = (begin == end)[:, None] & in_cols[None, :]
    row = word.to(tl.int64)[:, None] * COLS + col[None, :]
    tl.store(dword_ptr + row, tl.zeros((WORDS, BLOCK), dtype=tl.float32), mask=unread)
    for one in range(first, tl.minimum(first + WORDS, words)):
        low = tl.load(bounds_ptr + one).to(tl.int32)
        high = tl.load(bounds_ptr + one + 1).to(tl.int32)
        begins, ends = low // chunk, (high - 1) // chunk
        if (low < high) & (begins < ends):
            # many at a time: a frequent word is in a hundred chunks
            total = tl.zeros((WORDS, BLOCK), dtype=tl.float32)
            for start in range(begins + 1, ends + 1, WORDS):
                chunk_index = (start + tl.arange(0, WORDS)).to(tl.int64)
                mask = (chunk_index <= ends)[:, None] & in_cols[None, :]
                total += tl.load(shared_ptr + chunk_index[:, None] * 2 * COLS + col[None, :], mask=mask, other=0.0)
            head = tl.load(shared_ptr + (begins.to(tl.int64) * 2 + 1) * COLS + col, mask=in_cols, other=0.0)
            tl.store(dword_ptr + tl.cast(one, tl.int64) * COLS + col, head + tl.sum(total, axis=0), mask=in_cols)


class WordPass(NamedTuple):
    """What the pass leaves: gradients, and the two means over each row of which dh is made."""

    dword: Tensor
    dweight: Tensor
    dbias: Tensor
    level: Tensor
    along: Tensor


def by_word(dy: Tensor, ids: Tensor, places: Tensor, word: Tensor, shared: dict[str, Any]) -> WordPass:
    """dword (V, D), dweight and dbias (D,), and <g> and <g n> (T,), for dy (T, D) with at least one row."""
    rows, cols = dy.shape
    sorted_ids, order = torch.sort(ids.int(), stable=True)
    bounds = torch.searchsorted(sorted_ids, torch.arange(len(word) + 1, dtype=torch.int32, device=ids.device))
    block, warps = row_block(cols)
    if cols > _ONE_WARP or dy.element_size() == 4:
        warps = max(1, block // 512)  # one warp would spill
    programs = persistent_programs(dy, triton.cdiv(rows, _SHORTEST_CHUNK), max(1, _WARPS_PER_MULTIPROCESSOR // warps))
    chunk = triton.cdiv(rows, programs)
    programs = triton.cdiv(rows, chunk)
    level, along = word.new_empty(rows), word.new_empty(rows)
    dword = torch.empty_like(word, memory_format=torch.contiguous_format)
    sums = word.new_empty((programs, 2, cols))
    partial = torch.empty_like(sums)
    _words_kernel[(programs,)](
        sorted_ptr=sorted_ids,
        order_ptr=order,
        places_ptr=places,
        level_ptr=level,
        along_ptr=along,
        dword_ptr=dword,
        shared_ptr=sums,
        partial_ptr=partial,
        rows=rows,
        chunk=chunk,
        BLOCK=block,
        num_warps=warps,
        **OPTIONS,
        **shared,
    )
    _rest_kernel[(triton.cdiv(len(word), _REST_WORDS), triton.cdiv(cols, _REST_COLUMNS))](
        bounds_ptr=bounds,
        shared_ptr=sums,
        dword_ptr=dword,
        words=len(word),
        chunk=chunk,
        COLS=cols,
        WORDS=_REST_WORDS,
        BLOCK=_REST_COLUMNS,
        num_warps=_REST_WARPS,
        **OPTIONS,
    )
    return WordPass(dword, partial[:, 0].sum(0), partial[:, 1].sum(0), level, along)
