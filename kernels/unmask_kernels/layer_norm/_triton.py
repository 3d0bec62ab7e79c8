"""Triton layer_norm: a tile of whole rows in registers, one read and one write.

Memory bound. Traffic per row of D elements of s bytes, forward: x, residual, y = 3 D s; backward: dy, x, residual,
dresidual = 4 D s, and D s for dx under dropout; returning the sum adds D s in either direction. The mask is drawn
again from its address instead of being stored; without a residual, neither it nor its gradient is touched. A program of
the forward takes one tile; programs of the backward are persistent and loop over tiles, so that dx_bias, dweight and
dbias add up in registers. Each program then writes its rows of a (programs, 3, D) fp32 buffer, summed afterwards: no
atomics, so the result does not depend on timing.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels._triton.launch import OPTIONS, RowTile, device_guard, persistent_programs, row_tile
from unmask_kernels._triton.random import keep_rows

from .arguments import Arguments

__all__ = ["backward", "forward"]

# key_ptr points into a table of keys, aligned to 16 bytes or not by its place there: not worth a kernel of its own.
# The backward holds six values an element against the forward's two: half the elements keep it free of spills.
_PER_THREAD_FORWARD, _PER_THREAD_BACKWARD = 16, 8
# As many as the registers of a multiprocessor hold at once, so that no program waits for another to end.
_PROGRAMS_PER_MULTIPROCESSOR = 5


@triton.jit
def _load_sum(
    x_ptr, residual_ptr, x_bias_ptr, first, col, offset, mask, keep, scale,
    COLS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_X_BIAS: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    # h of one tile in fp32, 0 outside the mask; `first` is int64, so the base address cannot overflow.
    h = tl.load(x_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
    if HAS_X_BIAS:
        h += tl.load(x_bias_ptr + col, mask=col < COLS, other=0.0)[None, :]
    if HAS_DROPOUT:
        h = tl.where(keep, h * scale, 0.0)
    if HAS_RESIDUAL:
        h += tl.load(residual_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)
    return h


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _forward_kernel(
    x_ptr, residual_ptr, x_bias_ptr, weight_ptr, bias_ptr, key_ptr, row_keys_ptr, y_ptr, sum_ptr, mean_ptr, rstd_ptr,
    rows, eps, scale, threshold,
    COLS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_X_BIAS: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_DROPOUT: tl.constexpr, RETURN_SUM: tl.constexpr,
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
    h = _load_sum(
        x_ptr, residual_ptr, x_bias_ptr, first, col, offset, mask, keep, scale,
        COLS, HAS_RESIDUAL, HAS_X_BIAS, HAS_DROPOUT,
    )  # fmt: skip
    if RETURN_SUM:
        rounded = h.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + first * COLS + offset, rounded, mask=mask)
        h = rounded.to(tl.float32)
    # Two passes over registers: the variance of centred values keeps its digits when the mean is large.
    mean = tl.sum(h, axis=1) / COLS  # (ROWS,)
    centred = tl.where(in_cols[None, :], h - mean[:, None], 0.0)
    rstd = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(centred * centred, axis=1) / COLS + eps))
    weight = tl.load(weight_ptr + col, mask=in_cols, other=0.0)  # (BLOCK,)
    y = centred * rstd[:, None] * weight[None, :]
    if HAS_BIAS:
        y += tl.load(bias_ptr + col, mask=in_cols, other=0.0)[None, :]
    tl.store(y_ptr + first * COLS + offset, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + first + row, mean, mask=in_rows)
    tl.store(rstd_ptr + first + row, rstd, mask=in_rows)


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _backward_kernel(
    dy_ptr, dsum_ptr, x_ptr, residual_ptr, x_bias_ptr, weight_ptr, mean_ptr, rstd_ptr, key_ptr, row_keys_ptr,
    dh_ptr, dx_ptr, partial_ptr,
    rows, scale, threshold,
    COLS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_X_BIAS: tl.constexpr, HAS_DROPOUT: tl.constexpr,
    HAS_SUM: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # With HAS_SUM, x_ptr is the sum that the forward returned and dsum_ptr its gradient.
    row = tl.arange(0, ROWS)
    col = tl.arange(0, BLOCK)
    in_cols = col < COLS
    offset = row[:, None] * COLS + col[None, :]
    weight = tl.load(weight_ptr + col, mask=in_cols, other=0.0)  # (BLOCK,)
    dx_bias = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
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
        h = _load_sum(
            x_ptr, residual_ptr, x_bias_ptr, first, col, offset, mask, keep, scale,
            COLS, HAS_RESIDUAL and not HAS_SUM, HAS_X_BIAS and not HAS_SUM, HAS_DROPOUT and not HAS_SUM,
        )  # fmt: skip
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
        if HAS_SUM:
            dh += tl.load(dsum_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)
        if HAS_RESIDUAL or not HAS_DROPOUT:
            tl.store(dh_ptr + first * COLS + offset, dh.to(dh_ptr.dtype.element_ty), mask=mask)
        if HAS_DROPOUT:
            dh = tl.where(keep, dh * scale, 0.0)
            tl.store(dx_ptr + first * COLS + offset, dh.to(dx_ptr.dtype.element_ty), mask=mask)
        if HAS_X_BIAS:
            # rows beyond the last have rstd 0 and no incoming gradient: they add 0
            dx_bias += dh
    partial = partial_ptr + tl.program_id(0) * 3 * COLS + col
    if HAS_X_BIAS:
        tl.store(partial, tl.sum(dx_bias, axis=0), mask=in_cols)
    tl.store(partial + COLS, tl.sum(dweight, axis=0), mask=in_cols)
    tl.store(partial + 2 * COLS, tl.sum(dbias, axis=0), mask=in_cols)


def forward(
    x: Tensor,
    residual: Tensor | None,
    x_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    arguments: Arguments,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y (T, D), the sum (T, D) or empty, mean (T,), rstd (T,), and an empty mask: the backward draws it again."""
    rows, cols = x.shape
    x = x.contiguous()
    y = torch.empty_like(x)
    total = torch.empty_like(x) if arguments.return_sum else x.new_empty(0)
    mean = x.new_empty(rows, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    tile = row_tile(cols, _PER_THREAD_FORWARD)
    if rows > 0:
        with device_guard(x):
            _forward_kernel[(triton.cdiv(rows, tile.rows),)](
                bias_ptr=None if bias is None else bias.contiguous(),
                y_ptr=y,
                sum_ptr=total if arguments.return_sum else None,
                mean_ptr=mean,
                rstd_ptr=rstd,
                eps=arguments.eps,
                HAS_BIAS=bias is not None,
                HAS_RESIDUAL=residual is not None,
                RETURN_SUM=arguments.return_sum,
                **_shared(x, residual, x_bias, weight, arguments, tile),
            )
    return y, total, mean, rstd, x.new_empty(0, dtype=torch.bool)


def backward(
    dy: Tensor,
    dsum: Tensor | None,
    x: Tensor,
    residual: Tensor | None,
    x_bias: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    keep: Tensor,
    arguments: Arguments,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dresidual, dx (T, D), each empty where the other serves; dx_bias, dweight, dbias (D,).

    With `dsum`, the gradient of the returned sum, x is that sum; x_bias then only says that its gradient is wanted.
    """
    rows, cols = x.shape
    x = x.contiguous()
    has_residual = residual is not None or dsum is not None
    dh = torch.empty_like(x) if has_residual or arguments.p == 0.0 else x.new_empty(0)
    dx = torch.empty_like(x) if arguments.p > 0.0 else x.new_empty(0)
    tile = row_tile(cols, _PER_THREAD_BACKWARD)
    programs = persistent_programs(x, triton.cdiv(rows, tile.rows), _PROGRAMS_PER_MULTIPROCESSOR)
    partial = weight.new_empty((programs, 3, cols)) if rows else weight.new_zeros((1, 3, cols))
    if rows > 0:
        with device_guard(x):
            _backward_kernel[(programs,)](
                dy_ptr=dy.contiguous(),
                dsum_ptr=None if dsum is None else dsum.contiguous(),
                mean_ptr=mean,
                rstd_ptr=rstd,
                dh_ptr=dh,
                dx_ptr=dx,
                partial_ptr=partial,
                HAS_RESIDUAL=has_residual,
                HAS_SUM=dsum is not None,
                **_shared(x, residual, x_bias, weight, arguments, tile),
            )
    dx_bias = weight.new_empty(0) if x_bias is None else partial[:, 0].sum(0)
    return dh, dx, dx_bias, partial[:, 1].sum(0), partial[:, 2].sum(0)


def _shared(
    x: Tensor,
    residual: Tensor | None,
    x_bias: Tensor | None,
    weight: Tensor,
    arguments: Arguments,
    tile: RowTile,
) -> dict[str, Any]:
    """The arguments that both kernels have in common."""
    row_keys, p = arguments.row_keys, arguments.p
    return {
        "x_ptr": x,
        "residual_ptr": None if residual is None else residual.contiguous(),
        "x_bias_ptr": None if x_bias is None else x_bias.contiguous(),
        "weight_ptr": weight.contiguous(),
        "key_ptr": arguments.key,
        "row_keys_ptr": None if row_keys is None else row_keys.contiguous(),
        "rows": len(x),
        "scale": 1.0 / (1.0 - p),
        "threshold": philox.threshold(p),
        "COLS": x.shape[1],
        "HAS_X_BIAS": x_bias is not None,
        "HAS_DROPOUT": p > 0.0,
        "ROWS": tile.rows,
        "BLOCK": tile.block,
        "num_warps": tile.warps,
        **OPTIONS,
    }
