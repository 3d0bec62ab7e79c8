"""Triton embedding: a tile of whole rows in registers, gathered, added, normalised and dropped in one pass.

Memory bound. A row of D elements moves 4 D bytes of the word table and s D of y forward; the tables of places and
segments stay in the L2 cache. The backward gathers again instead of reading a saved sum, reads dy and writes dh, the
gradient of the sum, in fp32; `_triton_tables` adds its rows up by word, place and segment. Programs of the backward are
persistent: dweight and dbias add up in registers and leave as one row each of a (programs, D) buffer. No atomics.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels._triton.launch import RowTile, device_guard, persistent_programs, row_tile
from unmask_kernels._triton.random import keep_rows

from . import _triton_tables

__all__ = ["backward", "forward"]

_PER_THREAD_FORWARD, _PER_THREAD_BACKWARD = 16, 8
_PROGRAMS_PER_MULTIPROCESSOR = 6


@triton.jit
def _gather_sum(
    ids_ptr, places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, at, in_rows, col, mask,
    COLS: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
):  # fmt: skip
    # h of the rows `at` (ROWS,), 0 outside the mask. Indices are widened before they are multiplied.
    word = tl.load(ids_ptr + at, mask=in_rows, other=0).to(tl.int64) * COLS
    place = tl.load(places_ptr + at, mask=in_rows, other=0) * COLS
    h = tl.load(word_ptr + word[:, None] + col[None, :], mask=mask, other=0.0)  # (ROWS, BLOCK)
    h += tl.load(position_ptr + place[:, None] + col[None, :], mask=mask, other=0.0)
    if HAS_SEGMENTS:
        segment = tl.load(segments_ptr + at, mask=in_rows, other=0).to(tl.int64) * COLS
        h += tl.load(segment_ptr + segment[:, None] + col[None, :], mask=mask, other=0.0)
    else:
        h += tl.load(segment_ptr + col[None, :], mask=mask, other=0.0)
    return h


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _forward_kernel(
    ids_ptr, places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, weight_ptr, bias_ptr, key_ptr, row_keys_ptr,
    y_ptr, mean_ptr, rstd_ptr,
    rows, eps, scale, threshold,
    COLS: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_DROPOUT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, BLOCK)
    in_rows = at < rows
    in_cols = col < COLS
    mask = in_rows[:, None] & in_cols[None, :]
    h = _gather_sum(
        ids_ptr, places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, at, in_rows, col, mask,
        COLS, HAS_SEGMENTS,
    )  # fmt: skip
    # Two passes over registers: the variance of centred values keeps its digits when the mean is large.
    mean = tl.sum(h, axis=1) / COLS  # (ROWS,)
    centred = tl.where(in_cols[None, :], h - mean[:, None], 0.0)
    rstd = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(centred * centred, axis=1) / COLS + eps))
    weight = tl.load(weight_ptr + col, mask=in_cols, other=0.0)  # (BLOCK,)
    bias = tl.load(bias_ptr + col, mask=in_cols, other=0.0)
    y = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    if HAS_DROPOUT:
        row_keys = tl.load(row_keys_ptr + at, mask=in_rows, other=0)
        y = tl.where(keep_rows(tl.load(key_ptr), row_keys, threshold, ROWS, BLOCK), y * scale, 0.0)
    tl.store(y_ptr + at[:, None] * COLS + col[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + at, mean, mask=in_rows)
    tl.store(rstd_ptr + at, rstd, mask=in_rows)


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _backward_kernel(
    dy_ptr, ids_ptr, places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, weight_ptr, mean_ptr, rstd_ptr,
    key_ptr, row_keys_ptr, dh_ptr, dweight_ptr, dbias_ptr,
    rows, scale, threshold,
    COLS: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_DROPOUT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    col = tl.arange(0, BLOCK)
    in_cols = col < COLS
    weight = tl.load(weight_ptr + col, mask=in_cols, other=0.0)  # (BLOCK,)
    dweight = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    dbias = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        at = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        in_rows = at < rows
        mask = in_rows[:, None] & in_cols[None, :]
        h = _gather_sum(
            ids_ptr, places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, at, in_rows, col, mask,
            COLS, HAS_SEGMENTS,
        )  # fmt: skip
        mean = tl.load(mean_ptr + at, mask=in_rows, other=0.0)  # (ROWS,)
        rstd = tl.load(rstd_ptr + at, mask=in_rows, other=0.0)
        # Outside the mask normed is not 0, but dy is, and so is every product below.
        dy = tl.load(dy_ptr + at[:, None] * COLS + col[None, :], mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
        if HAS_DROPOUT:
            row_keys = tl.load(row_keys_ptr + at, mask=in_rows, other=0)
            dy = tl.where(keep_rows(tl.load(key_ptr), row_keys, threshold, ROWS, BLOCK), dy * scale, 0.0)
        normed = (h - mean[:, None]) * rstd[:, None]
        dweight += dy * normed
        dbias += dy
        scaled = dy * weight[None, :]
        along = tl.sum(scaled * normed, axis=1) / COLS  # (ROWS,)
        level = tl.sum(scaled, axis=1) / COLS
        dh = (scaled - level[:, None] - normed * along[:, None]) * rstd[:, None]
        tl.store(dh_ptr + at[:, None] * COLS + col[None, :], dh, mask=mask)
    partial = tl.program_id(0) * COLS + col
    tl.store(dweight_ptr + partial, tl.sum(dweight, axis=0), mask=in_cols)
    tl.store(dbias_ptr + partial, tl.sum(dbias, axis=0), mask=in_cols)


def forward(
    ids: Tensor,
    places: Tensor,
    segments: Tensor | None,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    bias: Tensor,
    key: Tensor | None,
    row_keys: Tensor,
    eps: float,
    p: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (T, D), mean (T,), rstd (T,), and an empty mask: the backward draws it again."""
    rows, cols = len(ids), word.shape[1]
    y = word.new_empty((rows, cols), dtype=dtype)
    mean = word.new_empty(rows)
    rstd = torch.empty_like(mean)
    tile = row_tile(cols, _PER_THREAD_FORWARD)
    if rows > 0:
        with device_guard(word):
            _forward_kernel[(triton.cdiv(rows, tile.rows),)](
                bias_ptr=bias.contiguous(),
                y_ptr=y,
                mean_ptr=mean,
                rstd_ptr=rstd,
                eps=eps,
                **_shared(ids, places, segments, word, position, segment, weight, key, row_keys, p, tile),
            )
    return y, mean, rstd, word.new_empty(0, dtype=torch.bool)


def backward(
    dy: Tensor,
    ids: Tensor,
    places: Tensor,
    segments: Tensor | None,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    keep: Tensor,
    key: Tensor | None,
    row_keys: Tensor,
    cu_seqlens: Tensor,
    order: Tensor,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dword (V, D), dposition (P, D), dsegment (N, D), dweight (D,), dbias (D,)."""
    rows, cols = dy.shape
    if rows == 0:
        tables = tuple(torch.zeros_like(table) for table in (word, position, segment, weight, weight))
        return tables[0], tables[1], tables[2], tables[3], tables[4]
    dh = word.new_empty((rows, cols))
    tile = row_tile(cols, _PER_THREAD_BACKWARD)
    programs = persistent_programs(dy, triton.cdiv(rows, tile.rows), _PROGRAMS_PER_MULTIPROCESSOR)
    dweight = weight.new_empty((programs, cols))
    dbias = torch.empty_like(dweight)
    with device_guard(word):
        _backward_kernel[(programs,)](
            dy_ptr=dy.contiguous(),
            mean_ptr=mean,
            rstd_ptr=rstd,
            dh_ptr=dh,
            dweight_ptr=dweight,
            dbias_ptr=dbias,
            **_shared(ids, places, segments, word, position, segment, weight, key, row_keys, p, tile),
        )
        dword = _triton_tables.by_word(dh, ids, len(word))
        dposition, dsegment = _triton_tables.by_place(dh, segments, cu_seqlens, order, len(position), len(segment))
    return dword, dposition, dsegment, dweight.sum(0), dbias.sum(0)


def _shared(
    ids: Tensor,
    places: Tensor,
    segments: Tensor | None,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    key: Tensor | None,
    row_keys: Tensor,
    p: float,
    tile: RowTile,
) -> dict[str, Any]:
    """The arguments that both kernels have in common."""
    return {
        "ids_ptr": ids.contiguous(),
        "places_ptr": places,
        "segments_ptr": None if segments is None else segments.contiguous(),
        "word_ptr": word.contiguous(),
        "position_ptr": position.contiguous(),
        "segment_ptr": segment.contiguous(),
        "weight_ptr": weight.contiguous(),
        "key_ptr": key,
        "row_keys_ptr": row_keys,
        "rows": len(ids),
        "scale": 1.0 / (1.0 - p),
        "threshold": philox.threshold(p),
        "COLS": word.shape[1],
        "HAS_SEGMENTS": segments is not None,
        "HAS_DROPOUT": p > 0.0,
        "ROWS": tile.rows,
        "BLOCK": tile.block,
        "num_warps": tile.warps,
    }
