"""Gradients of the embedding tables on the GPU: rows of dh (T, D) added up by word, and by place and segment.

Every sum has a fixed order and one owner, so there are no atomics and two runs agree bit for bit.

    by word     tokens sorted by id (stable)   | 7 7 7 | 9 | 103 103 103 103 103 103 103 103 103 ... | 2050 |
                aligned chunks of it                       |  head |  chunk  |  chunk  | tail  |
      1. a chunk inside one run of a word is summed by a program of its own;
      2. every word of the vocabulary has a program, which adds head, tail and the sums of whole chunks and writes its
         row of the dense gradient, zeros where the word does not occur. So a word that is an eighth of all tokens, as
         [MASK] is in training, costs its program T / 8 / CHUNK + 2 CHUNK rows, not T / 8.
    by place    documents from the longest to the shortest (`Documents.order`): those that reach place q come first, so
                the program of q walks as many as do, and sees each row of dh once. It also adds the rows up
                by segment over the places it owns; a (programs, N, D) buffer of these sums is added afterwards.

Traffic: dh twice, a row index a token, and each dense gradient once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels._triton.launch import persistent_programs

__all__ = ["by_place", "by_word"]

# Chunks of a run, rows of a tile, columns of a tile: 32 elements a thread of two warps.
_CHUNK, _ROWS, _COLUMNS, _WARPS = 64, 8, 256, 2
_DOCUMENTS, _PLACE_COLUMNS, _PLACE_WARPS = 16, 64, 2
_PROGRAMS_PER_MULTIPROCESSOR = 24


@triton.jit(do_not_specialize=["tokens"])
def _chunk_kernel(
    dh_ptr, sorted_ptr, tokens_by_id_ptr, sums_ptr, tokens,
    COLS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Sum of one chunk, if all of it is one word; nobody reads the others.
    chunk = tl.program_id(0)
    first = chunk * CHUNK
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_cols = col < COLS
    last = tl.minimum(first + CHUNK, tokens) - 1
    same = tl.load(sorted_ptr + first) == tl.load(sorted_ptr + last)
    if same & (first + CHUNK <= tokens):
        total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
        for start in range(0, CHUNK, ROWS):
            row = tl.load(tokens_by_id_ptr + first + start + tl.arange(0, ROWS))  # (ROWS,), int64
            total += tl.load(dh_ptr + row[:, None] * COLS + col[None, :], mask=in_cols[None, :], other=0.0)
        tl.store(sums_ptr + chunk.to(tl.int64) * COLS + col, tl.sum(total, axis=0), mask=in_cols)


@triton.jit
def _word_kernel(
    dh_ptr, bounds_ptr, tokens_by_id_ptr, sums_ptr, dword_ptr,
    COLS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    word = tl.program_id(0)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_cols = col < COLS
    item = tl.arange(0, ROWS)
    begin = tl.load(bounds_ptr + word).to(tl.int32)
    end = tl.load(bounds_ptr + word + 1).to(tl.int32)
    # whole chunks [low, high) of the run; without one the head is all of it
    low = tl.cdiv(begin, CHUNK)
    high = tl.maximum(end // CHUNK, low)
    head_end = tl.minimum(low * CHUNK, end)
    tail_begin = tl.maximum(high * CHUNK, head_end)
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for start in range(begin, head_end, ROWS):
        inside = start + item < head_end
        row = tl.load(tokens_by_id_ptr + start + item, mask=inside, other=0)
        mask = inside[:, None] & in_cols[None, :]
        total += tl.load(dh_ptr + row[:, None] * COLS + col[None, :], mask=mask, other=0.0)
    for start in range(low, high, ROWS):
        chunk = (start + item).to(tl.int64)
        mask = (start + item < high)[:, None] & in_cols[None, :]
        total += tl.load(sums_ptr + chunk[:, None] * COLS + col[None, :], mask=mask, other=0.0)
    for start in range(tail_begin, end, ROWS):
        inside = start + item < end
        row = tl.load(tokens_by_id_ptr + start + item, mask=inside, other=0)
        mask = inside[:, None] & in_cols[None, :]
        total += tl.load(dh_ptr + row[:, None] * COLS + col[None, :], mask=mask, other=0.0)
    tl.store(dword_ptr + word.to(tl.int64) * COLS + col, tl.sum(total, axis=0), mask=in_cols)


@triton.jit(do_not_specialize=["places"])
def _place_kernel(
    dh_ptr, segments_ptr, cu_seqlens_ptr, order_ptr, reach_ptr, dposition_ptr, dsegment_ptr, places,
    COLS: tl.constexpr, SEGMENTS: tl.constexpr, HAS_SEGMENTS: tl.constexpr, SLOTS: tl.constexpr,
    DOCUMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_cols = col < COLS
    index = tl.arange(0, SLOTS)
    by_segment = tl.zeros((SLOTS, BLOCK), dtype=tl.float32)
    for place in range(tl.program_id(0), places, tl.num_programs(0)):
        total = tl.zeros((DOCUMENTS, BLOCK), dtype=tl.float32)
        reach = tl.load(reach_ptr + place).to(tl.int32)
        for first in range(0, reach, DOCUMENTS):
            slot = first + tl.arange(0, DOCUMENTS)
            inside = slot < reach
            document = tl.load(order_ptr + slot, mask=inside, other=0)
            row = tl.load(cu_seqlens_ptr + document, mask=inside, other=0).to(tl.int64) + place
            mask = inside[:, None] & in_cols[None, :]
            tile = tl.load(dh_ptr + row[:, None] * COLS + col[None, :], mask=mask, other=0.0)  # (DOCUMENTS, BLOCK)
            total += tile
            if HAS_SEGMENTS:
                segment = tl.load(segments_ptr + row, mask=inside, other=-1)
                for one in tl.static_range(SEGMENTS):
                    of_one = tl.sum(tl.where((segment == one)[:, None], tile, 0.0), axis=0)
                    by_segment += tl.where((index == one)[:, None], of_one[None, :], 0.0)
        of_place = tl.sum(total, axis=0)
        tl.store(dposition_ptr + tl.cast(place, tl.int64) * COLS + col, of_place, mask=in_cols)
        if not HAS_SEGMENTS:
            by_segment += tl.where((index == 0)[:, None], of_place[None, :], 0.0)
    partial = (tl.program_id(0) * SEGMENTS + index) * COLS
    tl.store(
        dsegment_ptr + partial[:, None] + col[None, :], by_segment, mask=(index < SEGMENTS)[:, None] & in_cols[None, :]
    )


def by_word(dh: Tensor, ids: Tensor, vocabulary: int) -> Tensor:
    """dword (V, D) from dh (T, D) and ids (T,)."""
    tokens, cols = dh.shape
    sorted_ids, tokens_by_id = torch.sort(ids.int(), stable=True)
    words = torch.arange(vocabulary + 1, dtype=torch.int32, device=ids.device)
    bounds = torch.searchsorted(sorted_ids, words)
    chunks = triton.cdiv(tokens, _CHUNK)
    sums = dh.new_empty((chunks, cols))
    dword = dh.new_empty((vocabulary, cols))
    blocks = triton.cdiv(cols, _COLUMNS)
    shape = {"COLS": cols, "CHUNK": _CHUNK, "ROWS": _ROWS, "BLOCK": _COLUMNS, "num_warps": _WARPS}
    _chunk_kernel[(chunks, blocks)](
        dh_ptr=dh, sorted_ptr=sorted_ids, tokens_by_id_ptr=tokens_by_id, sums_ptr=sums, tokens=tokens, **shape
    )
    _word_kernel[(vocabulary, blocks)](
        dh_ptr=dh, bounds_ptr=bounds, tokens_by_id_ptr=tokens_by_id, sums_ptr=sums, dword_ptr=dword, **shape
    )
    return dword


def by_place(
    dh: Tensor, segments: Tensor | None, cu_seqlens: Tensor, order: Tensor, places: int, num_segments: int
) -> tuple[Tensor, Tensor]:
    """dposition (P, D) and dsegment (N, D) from dh (T, D)."""
    cols = dh.shape[1]
    blocks = triton.cdiv(cols, _PLACE_COLUMNS)
    programs = persistent_programs(dh, places, max(1, _PROGRAMS_PER_MULTIPROCESSOR // blocks))
    dposition = dh.new_empty((places, cols))
    partial = dh.new_empty((programs, num_segments, cols))
    # how many documents of the order, longest first, are longer than each place
    shortness = -cu_seqlens.diff()[order]
    reach = torch.searchsorted(shortness, -torch.arange(places, dtype=torch.int32, device=dh.device))
    _place_kernel[(programs, blocks)](
        dh_ptr=dh,
        segments_ptr=None if segments is None else segments.contiguous(),
        cu_seqlens_ptr=cu_seqlens,
        order_ptr=order,
        reach_ptr=reach,
        dposition_ptr=dposition,
        dsegment_ptr=partial,
        places=places,
        COLS=cols,
        SEGMENTS=num_segments,
        HAS_SEGMENTS=segments is not None,
        SLOTS=triton.next_power_of_2(num_segments),
        DOCUMENTS=_DOCUMENTS,
        BLOCK=_PLACE_COLUMNS,
        num_warps=_PLACE_WARPS,
    )
    return dposition, partial.sum(0)
