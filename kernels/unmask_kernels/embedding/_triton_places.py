"""Gradients of the tables of places and segments on the GPU: dh formed again, added up by place.

Documents from the longest to the shortest (`Documents.order`): those that reach place q come first, so the program of q
and a block of columns walks as many as do, and sees each row once. It also adds the rows up by segment over the places
it owns; a (programs, N, D) buffer of these sums is added afterwards. dh of a block of columns needs no other column:
the means over a row come from `_triton_words`. Every sum has one owner and a fixed order: no atomics.

Traffic of a token: its dy again, some 60 bytes of indices and means a block; a word's row, where it is not in the L2
cache any more.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels._triton.launch import OPTIONS, persistent_programs

from ._triton_bits import load_bits
from ._triton_words import WordPass

__all__ = ["by_place"]

_DOCUMENTS, _COLUMNS, _WARPS = 8, 128, 1
_PROGRAMS_PER_MULTIPROCESSOR = 32


@triton.jit(do_not_specialize=["places"])
def _places_kernel(
    dy_ptr, ids_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, weight_ptr, mean_ptr, rstd_ptr, level_ptr,
    along_ptr, bits_ptr, starts_ptr, reach_ptr, dposition_ptr, dsegment_ptr,
    places, scale,
    COLS: tl.constexpr, SEGMENTS: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_DROPOUT: tl.constexpr,
    SLOTS: tl.constexpr, DOCUMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    first_col = tl.program_id(1) * BLOCK
    col = first_col + tl.arange(0, BLOCK)
    in_cols = col < COLS
    index = tl.arange(0, SLOTS)
    weight = tl.load(weight_ptr + col, mask=in_cols, other=0.0)  # (BLOCK,)
    by_segment = tl.zeros((SLOTS, BLOCK), dtype=tl.float32)
    for place in range(tl.program_id(0), places, tl.num_programs(0)):
        position = tl.load(position_ptr + tl.cast(place, tl.int64) * COLS + col, mask=in_cols, other=0.0)
        if not HAS_SEGMENTS:
            position += tl.load(segment_ptr + col, mask=in_cols, other=0.0)
        total = tl.zeros((DOCUMENTS, BLOCK), dtype=tl.float32)
        reach = tl.load(reach_ptr + place).to(tl.int32)
        for first in range(0, reach, DOCUMENTS):
            slot = first + tl.arange(0, DOCUMENTS)
            inside = slot < reach
            mask = inside[:, None] & in_cols[None, :]
            at = tl.load(starts_ptr + slot, mask=inside, other=0).to(tl.int64) + place
            word = tl.load(ids_ptr + at, mask=inside, other=0).to(tl.int64) * COLS
            h = tl.load(word_ptr + word[:, None] + col[None, :], mask=mask, other=0.0) + position[None, :]
            if HAS_SEGMENTS:
                segment = tl.load(segments_ptr + at, mask=inside, other=-1)
                row = tl.maximum(segment, 0).to(tl.int64) * COLS
                h += tl.load(segment_ptr + row[:, None] + col[None, :], mask=mask, other=0.0)
            # 0 outside the mask, as rstd is there
            rstd = tl.load(rstd_ptr + at, mask=inside, other=0.0)[:, None]
            normed = (h - tl.load(mean_ptr + at, mask=inside, other=0.0)[:, None]) * rstd
            dy = tl.load(dy_ptr + at[:, None] * COLS + col[None, :], mask=mask, other=0.0).to(tl.float32)
            if HAS_DROPOUT:
                keep = load_bits(bits_ptr, at, inside, first_col, DOCUMENTS, BLOCK, COLS)
                dy = tl.where(keep, dy * scale, 0.0)
            level = tl.load(level_ptr + at, mask=inside, other=0.0)[:, None]
            along = tl.load(along_ptr + at, mask=inside, other=0.0)[:, None]
            dh = (dy * weight[None, :] - level - normed * along) * rstd  # (DOCUMENTS, BLOCK)
            total += dh
            if HAS_SEGMENTS:
                for one in tl.static_range(SEGMENTS):
                    of_one = tl.sum(tl.where((segment == one)[:, None], dh, 0.0), axis=0)
                    by_segment += tl.where((index == one)[:, None], of_one[None, :], 0.0)
        of_place = tl.sum(total, axis=0)
        tl.store(dposition_ptr + tl.cast(place, tl.int64) * COLS + col, of_place, mask=in_cols)
        if not HAS_SEGMENTS:
            by_segment += tl.where((index == 0)[:, None], of_place[None, :], 0.0)
    partial = (tl.program_id(0) * SEGMENTS + index) * COLS
    tl.store(
        dsegment_ptr + partial[:, None] + col[None, :], by_segment, mask=(index < SEGMENTS)[:, None] & in_cols[None, :]
    )


def by_place(
    dy: Tensor,
    ids: Tensor,
    words: WordPass,
    cu_seqlens: Tensor,
    order: Tensor,
    places: int,
    num_segments: int,
    shared: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """dposition (P, D) and dsegment (N, D), for dy (T, D) with at least one row."""
    cols = dy.shape[1]
    blocks = triton.cdiv(cols, _COLUMNS)
    programs = persistent_programs(dy, places, max(1, _PROGRAMS_PER_MULTIPROCESSOR // blocks))
    dposition = words.level.new_empty((places, cols))
    partial = words.level.new_empty((programs, num_segments, cols))
    # how many documents of the order, longest first, are longer than each place
    shortness = -cu_seqlens.diff()[order]
    reach = torch.searchsorted(shortness, -torch.arange(places, dtype=torch.int32, device=dy.device))
    _places_kernel[(programs, blocks)](
        ids_ptr=ids.contiguous(),
        level_ptr=words.level,
        along_ptr=words.along,
        starts_ptr=cu_seqlens[order],
        reach_ptr=reach,
        dposition_ptr=dposition,
        dsegment_ptr=partial,
        places=places,
        SEGMENTS=num_segments,
        SLOTS=triton.next_power_of_2(num_segments),
        DOCUMENTS=_DOCUMENTS,
        BLOCK=_COLUMNS,
        num_warps=_WARPS,
        **OPTIONS,
        maxnreg=255,  # else the assembler spills a few values for occupancy
        **shared,
    )
    return dposition, partial.sum(0)
