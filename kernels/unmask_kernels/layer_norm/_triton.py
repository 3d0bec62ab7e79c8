"""Triton layer_norm: a tile of whole rows in registers, one read and one write.

The kernel is memory bound. A row of D elements of s bytes moves, in the forward, x, residual and y: 3 D s; in the
backward dy, x, residual and dresidual: 4 D s, and D s more for dx under dropout. The dropout mask is drawn again from
its address instead of being stored. Without a residual, neither it nor its gradient is read or written.

A row is cut into parts (`row_tile`). Up to 1,024 columns, 768 in the backward, a warp has whole rows. A program of the
forward takes one tile. Programs of the backward are persistent: each loops over tiles, and adds up dweight, dbias and
dx_bias in registers. It then writes them into its row of a (programs, SUMS, D) fp32 buffer, and a second kernel adds
the rows up, for all three in one launch. No sum is atomic, so the result does not depend on timing.

Pointers: x, residual, y, dy, dx, dresidual (rows, COLS) in the dtype of x; x_bias, weight, bias (COLS,) fp32; mean and
rstd (rows,) fp32; key, a scalar, and row_keys (rows,) int64; partial (programs, SUMS, COLS) fp32. SUMS is 3, or 2
without x_bias. A pointer is None where the call has no such tensor.
"""

# mypy: disable-error-code="assignment"
# (tuples of a kernel grow part by part)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .. import philox
from .._triton.launch import OPTIONS, device_guard, persistent_programs
from .._triton.random import keep_rows
from ..row_tile import RowTile, row_tile
from .arguments import Arguments, BackwardArguments, Gradients, Results

__all__ = ["backward", "forward", "warps_at_once"]

# The most parts of eight columns a thread that do not spill: the backward holds some six values an element, the forward
# one.
_PARTS_FORWARD, _PARTS_FORWARD_FP32, _PARTS_BACKWARD = 4, 3, 3
# A program of the second kernel takes few columns, so that many multiprocessors have work, and many rows at a time, 32
# elements a thread, whose loads are under way together.
_SUMMED_ROWS, _SUMMED_COLUMNS, _SUMMING_WARPS = 128, 32, 4


@triton.jit
def _elements(first, rows, part, COLS: tl.constexpr, TILE: tl.constexpr):
    # Of one part of the tile that begins at row `first`: columns, distances from the tile's first element, and whether
    # the element exists. All are (ROWS, BLOCK), so that weight and biases, which are read at these columns, lie in the
    # threads that need them.
    ROWS: tl.constexpr = TILE.rows
    BLOCK: tl.constexpr = TILE.block
    row = tl.arange(0, ROWS)[:, None]
    col = tl.broadcast_to(part * BLOCK + tl.arange(0, BLOCK)[None, :], (ROWS, BLOCK))
    return col, row * COLS + col, (first + row < rows) & (col < COLS)


@triton.jit
def _draw_factors(key_ptr, row_keys_ptr, row, in_rows, threshold, scale, TILE: tl.constexpr):
    # What dropout multiplies by, part by part: scale where it keeps, else 0. A mask would take two multiplications.
    PARTS: tl.constexpr = TILE.parts
    key = tl.load(key_ptr)
    row_keys = tl.load(row_keys_ptr + row, mask=in_rows, other=0)
    factors = ()
    for part in tl.static_range(PARTS):
        keep = keep_rows(key, row_keys, threshold, part * TILE.block, TILE.rows, TILE.block)
        factors += (tl.where(keep, scale, 0.0),)  # (ROWS, BLOCK)
    return factors


@triton.jit
def _load_sum(x_ptr, residual_ptr, x_bias_ptr, first, col, offset, mask, factor, COLS: tl.constexpr):
    # h of a part in fp32, 0 outside the mask. `first` is int64, so that the base address cannot overflow.
    h = tl.load(x_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
    if x_bias_ptr is not None:
        h += tl.load(x_bias_ptr + col, mask=col < COLS, other=0.0)
    if factor is not None:
        h *= factor
    if residual_ptr is not None:
        h += tl.load(residual_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)
    return h


# key_ptr points into a table of keys. Its place there decides whether it is aligned to 16 bytes, which is not worth a
# kernel of its own.
@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _forward_kernel(
    x_ptr, residual_ptr, x_bias_ptr, weight_ptr, bias_ptr, key_ptr, row_keys_ptr, y_ptr, mean_ptr, rstd_ptr,
    rows, eps, scale, threshold,
    COLS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = TILE.parts
    ROWS: tl.constexpr = TILE.rows
    BLOCK: tl.constexpr = TILE.block
    HAS_DROPOUT: tl.constexpr = key_ptr is not None
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = first + tl.arange(0, ROWS)
    in_rows = row < rows
    if HAS_DROPOUT:
        factors = _draw_factors(key_ptr, row_keys_ptr, row, in_rows, threshold, scale, TILE)
    sums, centred = (), ()
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        col, offset, mask = _elements(first, rows, part, COLS, TILE)
        factor = factors[part] if HAS_DROPOUT else None
        h = _load_sum(x_ptr, residual_ptr, x_bias_ptr, first, col, offset, mask, factor, COLS)
        sums += (h,)
        total += h
    # The variance is that of centred values, from registers: it keeps its digits when the mean is large.
    mean = tl.sum(total, axis=1) / COLS  # (ROWS,)
    squares = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        in_cols = part * BLOCK + tl.arange(0, BLOCK) < COLS
        centred += (tl.where(in_cols[None, :], sums[part] - mean[:, None], 0.0),)
        squares += centred[part] * centred[part]
    rstd = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(squares, axis=1) / COLS + eps))
    for part in tl.static_range(PARTS):
        col, offset, mask = _elements(first, rows, part, COLS, TILE)
        y = centred[part] * rstd[:, None] * tl.load(weight_ptr + col, mask=col < COLS, other=0.0)
        if bias_ptr is not None:
            y += tl.load(bias_ptr + col, mask=col < COLS, other=0.0)
        tl.store(y_ptr + first * COLS + offset, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + row, mean, mask=in_rows)
    tl.store(rstd_ptr + row, rstd, mask=in_rows)


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _backward_kernel(
    dy_ptr, x_ptr, residual_ptr, x_bias_ptr, weight_ptr, mean_ptr, rstd_ptr, key_ptr, row_keys_ptr,
    dx_ptr, dresidual_ptr, partial_ptr,
    rows, scale, threshold,
    COLS: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = TILE.parts
    ROWS: tl.constexpr = TILE.rows
    BLOCK: tl.constexpr = TILE.block
    HAS_DROPOUT: tl.constexpr = key_ptr is not None
    SUMS: tl.constexpr = 2 if x_bias_ptr is None else 3
    zeros = (tl.zeros((ROWS, BLOCK), dtype=tl.float32),) * PARTS
    dx_bias, dweight, dbias = zeros, zeros, zeros
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0), num_stages=STAGES):
        first = tl.cast(tile, tl.int64) * ROWS
        row = first + tl.arange(0, ROWS)
        in_rows = row < rows
        mean = tl.load(mean_ptr + row, mask=in_rows, other=0.0)[:, None]
        rstd = tl.load(rstd_ptr + row, mask=in_rows, other=0.0)[:, None]
        if HAS_DROPOUT:
            factors = _draw_factors(key_ptr, row_keys_ptr, row, in_rows, threshold, scale, TILE)
        x_hat, dx_hat, new_dx_bias, new_dweight, new_dbias = (), (), (), (), ()
        sum1 = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
        sum2 = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
        for part in tl.static_range(PARTS):
            col, offset, mask = _elements(first, rows, part, COLS, TILE)
            factor = factors[part] if HAS_DROPOUT else None
            h = _load_sum(x_ptr, residual_ptr, x_bias_ptr, first, col, offset, mask, factor, COLS)
            # Outside the mask x_hat is not 0, but dy is, and so is every product below.
            dy = tl.load(dy_ptr + first * COLS + offset, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
            x_hat += ((h - mean) * rstd,)
            # weight is read again for every tile, from the L1 cache, and so takes no registers from one to the next
            dx_hat += (dy * tl.load(weight_ptr + col, mask=col < COLS, other=0.0),)
            sum1 += dx_hat[part] * x_hat[part]
            sum2 += dx_hat[part]
            new_dweight += (dweight[part] + dy * x_hat[part],)
            new_dbias += (dbias[part] + dy,)
        dweight, dbias = new_dweight, new_dbias
        c1 = (tl.sum(sum1, axis=1) / COLS)[:, None] * rstd  # (ROWS, 1)
        c2 = (tl.sum(sum2, axis=1) / COLS)[:, None] * rstd
        for part in tl.static_range(PARTS):
            _, offset, mask = _elements(first, rows, part, COLS, TILE)
            dh = dx_hat[part] * rstd - c2 - x_hat[part] * c1
            if dresidual_ptr is not None:
                tl.store(dresidual_ptr + first * COLS + offset, dh.to(dresidual_ptr.dtype.element_ty), mask=mask)
            if HAS_DROPOUT:
                dh *= factors[part]
                tl.store(dx_ptr + first * COLS + offset, dh.to(dx_ptr.dtype.element_ty), mask=mask)
            # rows beyond the last have rstd 0 and no incoming gradient: they add 0
            new_dx_bias += (dx_bias[part] + dh,)
        if x_bias_ptr is not None:
            dx_bias = new_dx_bias
    for part in tl.static_range(PARTS):
        col = part * BLOCK + tl.arange(0, BLOCK)
        partial = partial_ptr + tl.program_id(0) * SUMS * COLS + col
        tl.store(partial, tl.sum(dweight[part], axis=0), mask=col < COLS)
        tl.store(partial + COLS, tl.sum(dbias[part], axis=0), mask=col < COLS)
        if x_bias_ptr is not None:
            tl.store(partial + 2 * COLS, tl.sum(dx_bias[part], axis=0), mask=col < COLS)


@triton.jit(do_not_specialize=["programs"])
def _sum_kernel(
    partial_ptr, dweight_ptr, dbias_ptr, dx_bias_ptr,
    programs,
    COLS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # The second axis of the grid says which sum; dweight, dbias and dx_bias are (COLS,) fp32.
    SUMS: tl.constexpr = 2 if dx_bias_ptr is None else 3
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_cols = col < COLS
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for first in range(0, programs, ROWS):
        row = first + tl.arange(0, ROWS)
        offset = (row[:, None] * SUMS + tl.program_id(1)) * COLS + col[None, :]
        total += tl.load(partial_ptr + offset, mask=(row < programs)[:, None] & in_cols[None, :], other=0.0)
    result = tl.sum(total, axis=0)  # (BLOCK,)
    if tl.program_id(1) == 0:
        tl.store(dweight_ptr + col, result, mask=in_cols)
    elif tl.program_id(1) == 1:
        tl.store(dbias_ptr + col, result, mask=in_cols)
    elif dx_bias_ptr is not None:
        tl.store(dx_bias_ptr + col, result, mask=in_cols)


def forward(arguments: Arguments) -> Results:
    """Launch a program for each tile of rows."""
    x = arguments.x.contiguous()
    rows, cols = x.shape
    y = torch.empty_like(x)
    mean = x.new_empty(rows, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    tile = row_tile(cols, _PARTS_FORWARD if x.itemsize < 4 else _PARTS_FORWARD_FP32)
    if rows > 0:
        with device_guard(x):
            _forward_kernel[(triton.cdiv(rows, tile.rows),)](
                bias_ptr=None if arguments.bias is None else arguments.bias.contiguous(),
                y_ptr=y,
                mean_ptr=mean,
                rstd_ptr=rstd,
                eps=arguments.eps,
                **_shared(arguments, tile),
            )
    return Results(y, mean, rstd, keep=x.new_empty(0, dtype=torch.bool))


def backward(arguments: BackwardArguments) -> Gradients:
    """Launch as many programs as run at once, and add up what they leave."""
    x, has_x_bias = arguments.x.contiguous(), arguments.x_bias is not None
    rows, cols = x.shape
    dx = torch.empty_like(x) if arguments.p > 0.0 else None
    dresidual = torch.empty_like(x) if arguments.p == 0.0 or arguments.residual is not None else None
    weight = arguments.weight
    sums = [weight.new_empty(cols) if rows else weight.new_zeros(cols) for _ in range(2 + has_x_bias)]
    if rows > 0:
        tile = row_tile(cols, _PARTS_BACKWARD)
        warps = warps_at_once(tile, x.dtype, has_x_bias)
        programs = persistent_programs(x, triton.cdiv(rows, tile.rows), warps // tile.warps)
        partial = weight.new_empty((programs, len(sums), cols))
        with device_guard(x):
            _backward_kernel[(programs,)](
                dy_ptr=arguments.dy.contiguous(),
                mean_ptr=arguments.mean,
                rstd_ptr=arguments.rstd,
                dx_ptr=dx,
                dresidual_ptr=dresidual,
                partial_ptr=partial,
                # eight warps do not hide a load behind the others' work: it is issued a tile ahead
                STAGES=2 if warps == 8 else 1,
                **_shared(arguments, tile),
            )
            _sum_kernel[(triton.cdiv(cols, _SUMMED_COLUMNS), len(sums))](
                partial_ptr=partial,
                dweight_ptr=sums[0],
                dbias_ptr=sums[1],
                dx_bias_ptr=sums[2] if has_x_bias else None,
                programs=programs,
                COLS=cols,
                ROWS=_SUMMED_ROWS,
                BLOCK=_SUMMED_COLUMNS,
                num_warps=_SUMMING_WARPS,
                **OPTIONS,
            )
    return Gradients(
        dx=x.new_empty(0) if dx is None else dx,
        dresidual=x.new_empty(0) if dresidual is None else dresidual,
        dx_bias=sums[2] if has_x_bias else weight.new_empty(0),
        dweight=sums[0],
        dbias=sums[1],
    )


def warps_at_once(tile: RowTile, dtype: torch.dtype, has_x_bias: bool) -> int:
    """Warps of the backward whose registers a multiprocessor holds, so that no program waits for another to end.

    Up to 168 registers a thread leave room for 12; three parts with one more sum, or loaded in fp32, for 8.
    """
    return 8 if tile.parts == 3 and (has_x_bias or dtype == torch.float32) else 12


def _shared(arguments: Arguments | BackwardArguments, tile: RowTile) -> dict[str, Any]:
    """The arguments that both kernels have in common."""
    x, residual, x_bias, row_keys = arguments.x, arguments.residual, arguments.x_bias, arguments.row_keys
    return {
        "x_ptr": x.contiguous(),
        "residual_ptr": None if residual is None else residual.contiguous(),
        "x_bias_ptr": None if x_bias is None else x_bias.contiguous(),
        "weight_ptr": arguments.weight.contiguous(),
        "key_ptr": arguments.key,
        "row_keys_ptr": None if row_keys is None else row_keys.contiguous(),
        "rows": len(x),
        "scale": 1.0 / (1.0 - arguments.p),
        "threshold": philox.threshold(arguments.p),
        "COLS": x.shape[1],
        "TILE": tile,
        "num_warps": tile.warps,
        **OPTIONS,
    }
