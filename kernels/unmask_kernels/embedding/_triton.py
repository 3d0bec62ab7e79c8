"""Triton embedding. The forward is one kernel: it gathers, adds, normalises and drops whole rows in registers.

A row of D elements moves 4 D bytes of the word table (less if the L2 cache has them, as for a frequent word), and s D
bytes of y for elements of s bytes. The tables of positions and segments stay in that cache. Dropout adds D / 8 bytes,
the bitmask for the backward, which is in `_triton_backward`.
"""

# mypy: disable-error-code="assignment"
# (tuples of a kernel grow part by part)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .. import philox
from .._triton.launch import OPTIONS, device_guard
from ._triton_backward import backward
from ._triton_row import draw_bitmask, gather_sum, store_bitmask
from .arguments import Arguments, Results
from .row_layout import bitmask_layout, forward_tile

__all__ = ["backward", "forward"]


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _forward_kernel(
    ids_ptr, positions_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, weight_ptr, bias_ptr,
    key_ptr, row_keys_ptr, y_ptr, mean_ptr, rstd_ptr, bitmask_ptr,
    rows, eps, scale, threshold,
    COLS: tl.constexpr, TILE: tl.constexpr, BITMASK: tl.constexpr,
):  # fmt: skip
    """Compute y (rows, COLS), mean and rstd (rows,) fp32, and with a key the bitmask, given as bytes.

    ids, positions, segments (rows,) are integers; word (V, COLS), position (P, COLS), segment (N, COLS), weight and
    bias (COLS,) fp32; key, a scalar, and row_keys (rows,) int64. segments and key may be None.
    """
    PARTS: tl.constexpr = TILE.parts
    ROWS: tl.constexpr = TILE.rows
    BLOCK: tl.constexpr = TILE.block
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = row < rows
    # indices are widened before they are multiplied
    word_row = tl.load(ids_ptr + row, mask=in_rows, other=0).to(tl.int64)[:, None] * COLS
    position_row = tl.load(positions_ptr + row, mask=in_rows, other=0)[:, None] * COLS
    segment_row = tl.zeros((ROWS, 1), dtype=tl.int64)
    if segments_ptr is not None:
        segment_row = tl.load(segments_ptr + row, mask=in_rows, other=0).to(tl.int64)[:, None] * COLS
    h = ()
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        col = part * BLOCK + tl.arange(0, BLOCK)[None, :]
        h += (gather_sum(word_ptr, position_ptr, segment_ptr, word_row, position_row, segment_row, col, COLS),)
        total += h[part]
    # The variance is that of centred values, from registers: it keeps its digits when the mean is large.
    mean = tl.sum(total, axis=1) / COLS  # (ROWS,)
    squares = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        in_cols = part * BLOCK + tl.arange(0, BLOCK) < COLS
        centred = tl.where(in_cols[None, :], h[part] - mean[:, None], 0.0)
        squares += centred * centred
    rstd = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(squares, axis=1) / COLS + eps))
    if key_ptr is not None:
        key = tl.load(key_ptr)
        row_keys = tl.load(row_keys_ptr + row, mask=in_rows, other=0)
    for part in tl.static_range(PARTS):
        # two-dimensional, so that a thread has the columns here that it has in h
        col = part * BLOCK + tl.arange(0, BLOCK)[None, :]
        weight = tl.load(weight_ptr + col, mask=col < COLS, other=0.0)  # (1, BLOCK)
        bias = tl.load(bias_ptr + col, mask=col < COLS, other=0.0)
        y = (h[part] - mean[:, None]) * rstd[:, None] * weight + bias
        if key_ptr is not None:
            keep = draw_bitmask(bitmask_ptr, key, row_keys, threshold, row, in_rows, part, TILE, BITMASK)
            y = tl.where(keep, y * scale, 0.0)
        mask = in_rows[:, None] & (col < COLS)
        tl.store(y_ptr + row[:, None] * COLS + col, y.to(y_ptr.dtype.element_ty), mask=mask)
    if key_ptr is not None:
        # an integer may have more bytes than a row has parts: they are read, never used
        ALL_PARTS: tl.constexpr = (BITMASK.integers * BITMASK.bytes * 8 + BLOCK - 1) // BLOCK
        for part in tl.static_range(PARTS, ALL_PARTS):
            zeros = tl.zeros((ROWS, BLOCK // 8), dtype=tl.int32)
            store_bitmask(bitmask_ptr, zeros, row, in_rows, part, BLOCK // 8, BITMASK)
    tl.store(mean_ptr + row, mean, mask=in_rows)
    tl.store(rstd_ptr + row, rstd, mask=in_rows)


def forward(arguments: Arguments) -> Results:
    """Launch a program for each tile of rows; `keep` is the bitmask that `row_layout` describes."""
    word, segments, dtype, p = arguments.word, arguments.segments, arguments.dtype, arguments.p
    rows, cols = len(arguments.ids), word.shape[1]
    y = word.new_empty((rows, cols), dtype=dtype)
    mean = word.new_empty(rows)
    rstd = torch.empty_like(mean)
    bitmask = bitmask_layout(cols, dtype.itemsize)
    keep = word.new_empty((rows, bitmask.integers) if p > 0.0 else (0,), dtype=bitmask.dtype)
    tile = forward_tile(cols)
    if rows > 0:
        with device_guard(word):
            _forward_kernel[(triton.cdiv(rows, tile.rows),)](
                ids_ptr=arguments.ids.contiguous(),
                positions_ptr=arguments.positions,
                segments_ptr=None if segments is None else segments.contiguous(),
                word_ptr=word.contiguous(),
                position_ptr=arguments.position.contiguous(),
                segment_ptr=arguments.segment.contiguous(),
                weight_ptr=arguments.weight.contiguous(),
                bias_ptr=arguments.bias.contiguous(),
                key_ptr=arguments.key,
                row_keys_ptr=arguments.row_keys,
                y_ptr=y,
                mean_ptr=mean,
                rstd_ptr=rstd,
                bitmask_ptr=keep.view(torch.uint8),
                rows=rows,
                eps=arguments.eps,
                scale=1.0 / (1.0 - p),
                threshold=philox.threshold(p),
                COLS=cols,
                TILE=tile,
                BITMASK=bitmask,
                num_warps=tile.warps,
                **OPTIONS,
            )
    return Results(y, mean, rstd, keep)
