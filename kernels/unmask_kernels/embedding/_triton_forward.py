"""Triton embedding, forward: a tile of whole rows in registers, gathered, added, normalised and dropped in one pass.

A row of D elements moves 4 D bytes of the word table, less where a frequent word lies in the L2 cache, and s D of y for
elements of s bytes; the tables of places and segments stay in that cache. Dropout adds D / 8 bytes, for the backward.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels._triton.launch import OPTIONS, device_guard

from ._triton_bits import draw_bits

__all__ = ["forward", "gather_sum", "row_block"]

_ELEMENTS = 1024  # of a program, at least


@triton.jit
def gather_sum(
    word, places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, at, in_rows, col, mask,
    COLS: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
):  # fmt: skip
    # h of the rows `at` (ROWS,) with ids `word`, 0 outside the mask. Indices are widened before they are multiplied.
    place = tl.load(places_ptr + at, mask=in_rows, other=0) * COLS
    h = tl.load(word_ptr + word.to(tl.int64)[:, None] * COLS + col[None, :], mask=mask, other=0.0)  # (ROWS, BLOCK)
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
    y_ptr, mean_ptr, rstd_ptr, bits_ptr,
    rows, eps, scale, threshold,
    COLS: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_DROPOUT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, BLOCK)
    in_rows = at < rows
    in_cols = col < COLS
    mask = in_rows[:, None] & in_cols[None, :]
    word = tl.load(ids_ptr + at, mask=in_rows, other=0)
    h = gather_sum(
        word, places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, at, in_rows, col, mask,
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
        keep = draw_bits(bits_ptr, tl.load(key_ptr), row_keys, threshold, at, in_rows, ROWS, BLOCK, COLS)
        y = tl.where(keep, y * scale, 0.0)
    tl.store(y_ptr + at[:, None] * COLS + col[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + at, mean, mask=in_rows)
    tl.store(rstd_ptr + at, rstd, mask=in_rows)


def row_block(width: int) -> tuple[int, int]:
    """The power of two that covers a row, at least 16 so that a group of eight columns is whole, and its warps.

    One warp up to 1,024 columns, whose sums then need no other; in wider rows a thread has 16 elements.
    """
    block = max(16, triton.next_power_of_2(width))
    return block, 1 if block <= 1024 else block // 512


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
    """y (T, D), mean (T,), rstd (T,), and keep uint8 (T, ceil(D / 8)), a bit an element, empty without dropout."""
    rows, cols = len(ids), word.shape[1]
    y = word.new_empty((rows, cols), dtype=dtype)
    mean = word.new_empty(rows)
    rstd = torch.empty_like(mean)
    keep = word.new_empty((rows, -(-cols // 8)) if p > 0.0 else (0,), dtype=torch.uint8)
    block, warps = row_block(cols)
    tile_rows = max(1, _ELEMENTS // block)
    if rows > 0:
        with device_guard(word):
            _forward_kernel[(triton.cdiv(rows, tile_rows),)](
                ids_ptr=ids.contiguous(),
                places_ptr=places,
                segments_ptr=None if segments is None else segments.contiguous(),
                word_ptr=word.contiguous(),
                position_ptr=position.contiguous(),
                segment_ptr=segment.contiguous(),
                weight_ptr=weight.contiguous(),
                bias_ptr=bias.contiguous(),
                key_ptr=key,
                row_keys_ptr=row_keys,
                y_ptr=y,
                mean_ptr=mean,
                rstd_ptr=rstd,
                bits_ptr=keep,
                rows=rows,
                eps=eps,
                scale=1.0 / (1.0 - p),
                threshold=philox.threshold(p),
                COLS=cols,
                HAS_SEGMENTS=segments is not None,
                HAS_DROPOUT=p > 0.0,
                ROWS=tile_rows,
                BLOCK=block,
                num_warps=warps,
                **OPTIONS,
            )
    return y, mean, rstd, keep
