"""Triton layer_norm: a tile of whole rows in registers, one read and one write.

Memory bound. Traffic per row of D elements of s bytes, forward: x, residual, y = 3 D s; backward: dy, x, residual,
dresidual = 4 D s, and D s for dx under dropout. The mask is drawn
again from its address instead of being stored; without a residual, neither it nor its gradient is touched.

Rows lie in parts (`row_parts`); up to 1,024 columns, 768 in the backward, a warp has whole rows. A program of the
forward takes one tile; programs of the backward are persistent and loop over tiles, so that dx_bias, dweight and dbias
add up in registers. Each then writes its rows of a (programs, 3, D) fp32 buffer, summed afterwards: no atomics, so the
result does not depend on timing.
"""

# mypy: disable-error-code="assignment"
# (tuples of a kernel grow part by part)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels._triton.launch import OPTIONS, device_guard, persistent_programs
from unmask_kernels._triton.random import keep_rows
from unmask_kernels.parts import Parts, row_parts

from .arguments import Arguments

__all__ = ["backward", "forward", "warps_at_once"]

# key_ptr points into a table of keys, aligned to 16 bytes or not by its place there: not worth a kernel of its own.
# Parts of eight columns a thread that do not spill: the backward holds some six values an element, the forward one.
_PARTS_FORWARD, _PARTS_FORWARD_FP32, _PARTS_BACKWARD = 4, 3, 3


@triton.jit
def _elements(first, rows, part, COLS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    # Of a part of the tile that begins at row `first`: columns, distances from the tile's first element, which exist.
    # All are (ROWS, BLOCK), so that weight and biases, read at these columns, lie in the threads that need them.
    row = tl.arange(0, ROWS)[:, None]
    col = tl.broadcast_to(part * BLOCK + tl.arange(0, BLOCK)[None, :], (ROWS, BLOCK))
    return col, row * COLS + col, (first + row < rows) & (col < COLS)


@triton.jit
def _draw_factors(
    key_ptr, row_keys_ptr, at, in_rows, threshold, scale,
    HAS_DROPOUT: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # What dropout multiplies by, part by part: scale where it keeps, else 0. One multiplication, where a mask is two.
    factors = ()
    if HAS_DROPOUT:
        key = tl.load(key_ptr)
        row_keys = tl.load(row_keys_ptr + at, mask=in_rows, other=0)
    for part in tl.static_range(PARTS):
        if HAS_DROPOUT:
            keep = keep_rows(key, row_keys, threshold, part * BLOCK, ROWS, BLOCK)
            factors += (tl.where(keep, scale, 0.0),)  # (ROWS, BLOCK)
        else:
            factors += (scale,)
    return factors


@triton.jit
def _load_sum(
    x_ptr, residual_ptr, x_bias_ptr, first, col, offset, mask, factor,
    COLS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_X_BIAS: tl.constexpr, HAS_DROPOUT: tl.constexpr,
):  # fmt: skip
    # h of a part in fp32, 0 outside the mask; `first` is int64, so the base address cannot overflow.
    h = tl.load(x_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
    if HAS_X_BIAS:
        h += tl.load(x_bias_ptr + col, mask=col < COLS, other=0.0)
    if HAS_DROPOUT:
        h *= factor
    if HAS_RESIDUAL:
        h += tl.load(residual_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)
    return h


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _forward_kernel(
    x_ptr, residual_ptr, x_bias_ptr, weight_ptr, bias_ptr, key_ptr, row_keys_ptr, y_ptr, mean_ptr, rstd_ptr,
    rows, eps, scale, threshold,
    COLS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_X_BIAS: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_DROPOUT: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * ROWS
    at = first + tl.arange(0, ROWS)
    in_rows = at < rows
    factors = _draw_factors(key_ptr, row_keys_ptr, at, in_rows, threshold, scale, HAS_DROPOUT, PARTS, ROWS, BLOCK)
    sums, centred = (), ()
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        col, offset, mask = _elements(first, rows, part, COLS, ROWS, BLOCK)
        h = _load_sum(
            x_ptr, residual_ptr, x_bias_ptr, first, col, offset, mask, factors[part],
            COLS, HAS_RESIDUAL, HAS_X_BIAS, HAS_DROPOUT,
        )  # fmt: skip
        sums += (h,)
        total += h
    # Two passes over registers: the variance of centred values keeps its digits when the mean is large.
    mean = tl.sum(total, axis=1) / COLS  # (ROWS,)
    squares = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        in_cols = part * BLOCK + tl.arange(0, BLOCK) < COLS
        centred += (tl.where(in_cols[None, :], sums[part] - mean[:, None], 0.0),)
        squares += centred[part] * centred[part]
    rstd = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(squares, axis=1) / COLS + eps))
    for part in tl.static_range(PARTS):
        col, offset, mask = _elements(first, rows, part, COLS, ROWS, BLOCK)
        y = centred[part] * rstd[:, None] * tl.load(weight_ptr + col, mask=col < COLS, other=0.0)
        if HAS_BIAS:
            y += tl.load(bias_ptr + col, mask=col < COLS, other=0.0)
        tl.store(y_ptr + first * COLS + offset, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + at, mean, mask=in_rows)
    tl.store(rstd_ptr + at, rstd, mask=in_rows)


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _backward_kernel(
    dy_ptr, x_ptr, residual_ptr, x_bias_ptr, weight_ptr, mean_ptr, rstd_ptr, key_ptr, row_keys_ptr,
    dh_ptr, dx_ptr, partial_ptr,
    rows, scale, threshold,
    COLS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_X_BIAS: tl.constexpr, HAS_DROPOUT: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    zeros = (tl.zeros((ROWS, BLOCK), dtype=tl.float32),) * PARTS
    dx_bias, dweight, dbias = zeros, zeros, zeros
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0), num_stages=STAGES):
        first = tl.cast(tile, tl.int64) * ROWS
        at = first + tl.arange(0, ROWS)
        in_rows = at < rows
        mean = tl.load(mean_ptr + at, mask=in_rows, other=0.0)[:, None]
        rstd = tl.load(rstd_ptr + at, mask=in_rows, other=0.0)[:, None]
        factors = _draw_factors(key_ptr, row_keys_ptr, at, in_rows, threshold, scale, HAS_DROPOUT, PARTS, ROWS, BLOCK)
        normed, scaled, new_dx_bias, new_dweight, new_dbias = (), (), (), (), ()
        along = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
        level = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
        for part in tl.static_range(PARTS):
            col, offset, mask = _elements(first, rows, part, COLS, ROWS, BLOCK)
            h = _load_sum(
                x_ptr, residual_ptr, x_bias_ptr, first, col, offset, mask, factors[part],
                COLS, HAS_RESIDUAL, HAS_X_BIAS, HAS_DROPOUT,
            )  # fmt: skip
            # Outside the mask normed is not 0, but dy is, and so is every product below.
            dy = tl.load(dy_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
            normed += ((h - mean) * rstd,)
            # weight is read again for every tile, from the L1 cache, and so takes no registers from one to the next
            scaled += (dy * tl.load(weight_ptr + col, mask=col < COLS, other=0.0),)
            along += scaled[part] * normed[part]
            level += scaled[part]
            new_dweight += (dweight[part] + dy * normed[part],)
            new_dbias += (dbias[part] + dy,)
        dweight, dbias = new_dweight, new_dbias
        tilt = (tl.sum(along, axis=1) / COLS)[:, None] * rstd  # (ROWS, 1)
        constant = (tl.sum(level, axis=1) / COLS)[:, None] * rstd
        for part in tl.static_range(PARTS):
            _, offset, mask = _elements(first, rows, part, COLS, ROWS, BLOCK)
            dh = scaled[part] * rstd - constant - normed[part] * tilt
            if HAS_RESIDUAL or not HAS_DROPOUT:
                tl.store(dh_ptr + first * COLS + offset, dh.to(dh_ptr.dtype.element_ty), mask=mask)
            if HAS_DROPOUT:
                dh *= factors[part]
                tl.store(dx_ptr + first * COLS + offset, dh.to(dx_ptr.dtype.element_ty), mask=mask)
            # rows beyond the last have rstd 0 and no incoming gradient: they add 0
            new_dx_bias += (dx_bias[part] + dh,)
        if HAS_X_BIAS:
            dx_bias = new_dx_bias
    for part in tl.static_range(PARTS):
        col = part * BLOCK + tl.arange(0, BLOCK)
        partial = partial_ptr + tl.program_id(0) * 3 * COLS + col
        if HAS_X_BIAS:
            tl.store(partial, tl.sum(dx_bias[part], axis=0), mask=col < COLS)
        tl.store(partial + COLS, tl.sum(dweight[part], axis=0), mask=col < COLS)
        tl.store(partial + 2 * COLS, tl.sum(dbias[part], axis=0), mask=col < COLS)


def forward(
    x: Tensor,
    residual: Tensor | None,
    x_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    arguments: Arguments,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (T, D), mean (T,), rstd (T,), and an empty mask: the backward draws it again."""
    rows, cols = x.shape
    x = x.contiguous()
    y = torch.empty_like(x)
    mean = x.new_empty(rows, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    tile = row_parts(cols, _PARTS_FORWARD if x.itemsize < 4 else _PARTS_FORWARD_FP32)
    if rows > 0:
        with device_guard(x):
            _forward_kernel[(triton.cdiv(rows, tile.rows),)](
                bias_ptr=None if bias is None else bias.contiguous(),
                y_ptr=y,
                mean_ptr=mean,
                rstd_ptr=rstd,
                eps=arguments.eps,
                HAS_BIAS=bias is not None,
                HAS_RESIDUAL=residual is not None,
                **_shared(x, residual, x_bias, weight, arguments, tile),
            )
    return y, mean, rstd, x.new_empty(0, dtype=torch.bool)


def backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    x_bias: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    keep: Tensor,
    arguments: Arguments,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dresidual, dx (T, D), each empty where the other serves; dx_bias, dweight, dbias (D,)."""
    rows, cols = x.shape
    x = x.contiguous()
    has_residual = residual is not None
    dh = torch.empty_like(x) if has_residual or arguments.p == 0.0 else x.new_empty(0)
    dx = torch.empty_like(x) if arguments.p > 0.0 else x.new_empty(0)
    tile = row_parts(cols, _PARTS_BACKWARD)
    warps = warps_at_once(tile, x.dtype, x_bias is not None)
    programs = persistent_programs(x, triton.cdiv(rows, tile.rows), warps // tile.warps)
    partial = weight.new_empty((programs, 3, cols)) if rows else weight.new_zeros((1, 3, cols))
    if rows > 0:
        with device_guard(x):
            _backward_kernel[(programs,)](
                dy_ptr=dy.contiguous(),
                mean_ptr=mean,
                rstd_ptr=rstd,
                dh_ptr=dh,
                dx_ptr=dx,
                partial_ptr=partial,
                HAS_RESIDUAL=has_residual,
                # eight warps do not hide a load behind the others' work: it is issued a tile ahead
                STAGES=2 if warps == 8 else 1,
                **_shared(x, residual, x_bias, weight, arguments, tile),
            )
    dx_bias = weight.new_empty(0) if x_bias is None else partial[:, 0].sum(0)
    return dh, dx, dx_bias, partial[:, 1].sum(0), partial[:, 2].sum(0)


def warps_at_once(tile: Parts, dtype: torch.dtype, has_x_bias: bool) -> int:
    """Warps of the backward whose registers a multiprocessor holds, so that no program waits for another to end.

    Up to 168 registers a thread leave room for 12; three parts with one more sum, or loaded in fp32, for 8.
    """
    return 8 if tile.number == 3 and (has_x_bias or dtype == torch.float32) else 12


def _shared(
    x: Tensor, residual: Tensor | None, x_bias: Tensor | None, weight: Tensor, arguments: Arguments, tile: Parts
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
        "PARTS": tile.number,
        "ROWS": tile.rows,
        "BLOCK": tile.block,
        "num_warps": tile.warps,
        **OPTIONS,
    }
