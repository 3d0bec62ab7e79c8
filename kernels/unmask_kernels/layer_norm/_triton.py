"""Triton layer_norm: a tile of whole rows in registers, one read and one write.

Memory bound. Traffic per row of D elements of s bytes, forward: x, residual, y = 3 D s; backward: dy, x, residual,
dresidual = 4 D s, and D s for dx under dropout. The mask is drawn again from its address instead of being stored;
without a residual, neither it nor its gradient is touched. A program of the forward takes one tile; programs of the
backward are persistent and loop over tiles, so that dweight and dbias add up in registers. Each program then writes one
row of a (programs, D) fp32 buffer, which is summed afterwards: no atomics, so the result does not depend on timing.
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

__all__ = ["backward", "forward"]

# key_ptr points into a table of keys, aligned to 16 bytes or not by its place there: not worth a kernel of its own.
# The backward holds five values an element against the forward's two: half the elements keep it free of spills.
_PER_THREAD_FORWARD, _PER_THREAD_BACKWARD = 16, 8
_PROGRAMS_PER_MULTIPROCESSOR = 6


@triton.jit
def _load_sum(
    x_ptr, residual_ptr, first, offset, mask, keep, scale,
    COLS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    # h of one tile in fp32, 0 outside the mask; `first` is int64, so the base address cannot overflow.
    h = tl.load(x_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
    if HAS_DROPOUT:
        h = tl.where(keep, h * scale, 0.0)
    if HAS_RESIDUAL:
        h += tl.load(residual_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)
    return h


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _forward_kernel(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, key_ptr, row_keys_ptr, y_ptr, mean_ptr, rstd_ptr,
    rows, eps, scale, threshold,
    COLS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_DROPOUT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)
    col = tl.arange(0, BLOCK)
    in_rows = first + row < rows
    in_cols = col < COLS
    offset = row[:, None] * COLS + col[None, :]
    mask = in_rows[:, None] & in_cols[None, :]
    keep = mask
    if HAS_DROPOUT:
        row_keys = tl.load(row_keys_ptr + first + row, mask=in_rows, other=0)
        keep = keep_rows(tl.load(key_ptr), row_keys, threshold, ROWS, BLOCK)
    h = _load_sum(x_ptr, residual_ptr, first, offset, mask, keep, scale, COLS, HAS_RESIDUAL, HAS_DROPOUT)
    # Two passes over registers: the variance of centred values keeps its digits when the mean is large.
    mean = tl.sum(h, axis=1) / COLS  # (ROWS,)
    centred = tl.where(in_cols[None, :], h - mean[:, None], 0.0)
    rstd = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(centred * centred, axis=1) / COLS + eps))
    weight = tl.load(weight_ptr + col, mask=in_cols, other=0.0)  # (BLOCK,)
    bias = tl.load(bias_ptr + col, mask=in_cols, other=0.0)
    y = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    tl.store(y_ptr + first * COLS + offset, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + first + row, mean, mask=in_rows)
    tl.store(rstd_ptr + first + row, rstd, mask=in_rows)


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _backward_kernel(
    dy_ptr, x_ptr, residual_ptr, weight_ptr, mean_ptr, rstd_ptr, key_ptr, row_keys_ptr,
    dh_ptr, dx_ptr, dweight_ptr, dbias_ptr,
    rows, scale, threshold,
    COLS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_DROPOUT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, ROWS)
    col = tl.arange(0, BLOCK)
    in_cols = col < COLS
    offset = row[:, None] * COLS + col[None, :]
    weight = tl.load(weight_ptr + col, mask=in_cols, other=0.0)  # (BLOCK,)
    dweight = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    dbias = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        first = tl.cast(tile, tl.int64) * ROWS
        in_rows = first + row < rows
        mask = in_rows[:, None] & in_cols[None, :]
        keep = mask
        if HAS_DROPOUT:
            row_keys = tl.load(row_keys_ptr + first + row, mask=in_rows, other=0)
            keep = keep_rows(tl.load(key_ptr), row_keys, threshold, ROWS, BLOCK)
        h = _load_sum(x_ptr, residual_ptr, first, offset, mask, keep, scale, COLS, HAS_RESIDUAL, HAS_DROPOUT)
        mean = tl.load(mean_ptr + first + row, mask=in_rows, other=0.0)  # (ROWS,)
        rstd = tl.load(rstd_ptr + first + row, mask=in_rows, other=0.0)
        # Outside the mask normed is not 0, but dy is, and so is every product below.
        dy = tl.load(dy_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
        normed = (h - mean[:, None]) * rstd[:, None]
        dweight += dy * normed
        dbias += dy
        scaled = dy * weight[None, :]
        along = tl.sum(scaled * normed, axis=1) / COLS  # (ROWS,)
        level = tl.sum(scaled, axis=1) / COLS
        dh = (scaled - level[:, None] - normed * along[:, None]) * rstd[:, None]
        if HAS_RESIDUAL or not HAS_DROPOUT:
            tl.store(dh_ptr + first * COLS + offset, dh.to(dh_ptr.dtype.element_ty), mask=mask)
        if HAS_DROPOUT:
            dx = tl.where(keep, dh * scale, 0.0)
            tl.store(dx_ptr + first * COLS + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    partial = tl.program_id(0) * COLS + col
    tl.store(dweight_ptr + partial, tl.sum(dweight, axis=0), mask=in_cols)
    tl.store(dbias_ptr + partial, tl.sum(dbias, axis=0), mask=in_cols)


def forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    key: Tensor | None,
    row_keys: Tensor | None,
    eps: float,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (T, D), mean (T,), rstd (T,), and an empty mask: the backward draws it again."""
    rows, cols = x.shape
    x = x.contiguous()
    y = torch.empty_like(x)
    mean = x.new_empty(rows, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    tile = row_tile(cols, _PER_THREAD_FORWARD)
    if rows > 0:
        with device_guard(x):
            _forward_kernel[(triton.cdiv(rows, tile.rows),)](
                bias_ptr=bias.contiguous(),
                y_ptr=y,
                mean_ptr=mean,
                rstd_ptr=rstd,
                eps=eps,
                **_shared(x, residual, weight, key, row_keys, p, tile),
            )
    return y, mean, rstd, x.new_empty(0, dtype=torch.bool)


def backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    keep: Tensor,
    key: Tensor | None,
    row_keys: Tensor | None,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dh (T, D), the gradient of residual, and dx (T, D), each empty where the other serves; dweight, dbias (D,)."""
    rows, cols = x.shape
    x = x.contiguous()
    dh = torch.empty_like(x) if residual is not None or p == 0.0 else x.new_empty(0)
    dx = torch.empty_like(x) if p > 0.0 else x.new_empty(0)
    if rows == 0:
        return dh, dx, torch.zeros_like(weight), torch.zeros_like(weight)
    tile = row_tile(cols, _PER_THREAD_BACKWARD)
    programs = persistent_programs(x, triton.cdiv(rows, tile.rows), _PROGRAMS_PER_MULTIPROCESSOR)
    dweight = weight.new_empty((programs, cols))
    dbias = torch.empty_like(dweight)
    with device_guard(x):
        _backward_kernel[(programs,)](
            dy_ptr=dy.contiguous(),
            mean_ptr=mean,
            rstd_ptr=rstd,
            dh_ptr=dh,
            dx_ptr=dx,
            dweight_ptr=dweight,
            dbias_ptr=dbias,
            **_shared(x, residual, weight, key, row_keys, p, tile),
        )
    return dh, dx, dweight.sum(0), dbias.sum(0)


def _shared(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    key: Tensor | None,
    row_keys: Tensor | None,
    p: float,
    tile: RowTile,
) -> dict[str, Any]:
    """The arguments that both kernels have in common."""
    return {
        "x_ptr": x,
        "residual_ptr": None if residual is None else residual.contiguous(),
        "weight_ptr": weight.contiguous(),
        "key_ptr": key,
        "row_keys_ptr": None if row_keys is None else row_keys.contiguous(),
        "rows": len(x),
        "scale": 1.0 / (1.0 - p),
        "threshold": philox.threshold(p),
        "COLS": x.shape[1],
        "HAS_RESIDUAL": residual is not None,
        "HAS_DROPOUT": p > 0.0,
        "ROWS": tile.rows,
        "BLOCK": tile.block,
        "num_warps": tile.warps,
    }
