"""Triton linear_gelu: a tiled product whose epilogue adds the bias, applies the activation and writes z and y.

z = x W^T, the product without its bias, is written for the backward alone: gelu's kernel there adds the bias again in
fp32 and sums its gradient on the way. Beside the operands, traffic per element of y of s bytes: 2 s (gated 3 s), where
a product and an activation behind it move 3 s (gated 5 s).

A tile of 128 x 128 takes half the registers and less than half the shared memory of a multiprocessor, so that two
programs share one: while one is in its epilogue, 23 instructions an element, the other keeps the tensor cores busy.
Programs loop over the tiles, eight tiles of rows by all columns at a time: what they read then fits in the L2 cache.
A gated tile takes 64 gates and their 64 values as one product of 128 columns and splits it in registers.

An element is one sum in one order of D: no atomics and no split of D, so results do not depend on timing, and a row
gives what it gives alone. docs/kernels/linear_gelu.md has the arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels import capability
from unmask_kernels._triton.activation import activate
from unmask_kernels._triton.launch import device_guard, persistent_programs
from unmask_kernels.gelu.activations import GATED

__all__ = ["backward", "forward"]

_GROUP = 8
_PROGRAMS_PER_MULTIPROCESSOR = 2


class Tile(NamedTuple):
    """Rows and columns of the product in a program, the step in D, warps, steps under way."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


@triton.jit
def _add_bias(z, bias_ptr, col, in_cols, HAS_BIAS: tl.constexpr):
    return z + tl.load(bias_ptr + col, mask=in_cols, other=0.0)[None, :] if HAS_BIAS else z


@triton.jit
def _write(ptr, value, row, col, mask, stride: tl.constexpr):
    tl.store(ptr + row[:, None] * stride + col[None, :], value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _finish(
    z, value, z_ptr, y_ptr, bias_ptr, row, col, in_rows,
    COLS: tl.constexpr, ACTIVATION: tl.constexpr, IS_GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_Z: tl.constexpr,
):  # fmt: skip
    """Write z (ROWS, BLOCK), gated also the value beside it, and y of a tile that begins at z_ptr and y_ptr."""
    WIDTH: tl.constexpr = 2 * COLS if IS_GATED else COLS
    in_cols = col < COLS
    mask = in_rows[:, None] & in_cols[None, :]
    if HAS_Z:
        _write(z_ptr, z, row, col, mask, WIDTH)
        if IS_GATED:
            _write(z_ptr + COLS, value, row, col, mask, WIDTH)
    y, _ = activate(_add_bias(z, bias_ptr, col, in_cols, HAS_BIAS), ACTIVATION)
    if IS_GATED:
        y *= _add_bias(value, bias_ptr + COLS if HAS_BIAS else None, col, in_cols, HAS_BIAS)
    _write(y_ptr, y, row, col, mask, COLS)


@triton.jit(do_not_specialize=["rows", "depth"])
def _forward_kernel(
    x_ptr, weight_ptr, bias_ptr, z_ptr, y_ptr,
    rows, depth,
    DEPTH: tl.constexpr, COLS: tl.constexpr, ACTIVATION: tl.constexpr, IS_GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_Z: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = COLUMNS // 2
    BLOCK: tl.constexpr = HALF if IS_GATED else COLUMNS  # columns of y
    WIDTH: tl.constexpr = 2 * COLS if IS_GATED else COLS
    column_tiles: tl.constexpr = (COLS + BLOCK - 1) // BLOCK
    row_tiles = tl.cdiv(rows, ROWS)
    place = tl.arange(0, ROWS)
    step = tl.arange(0, STEP)
    for tile in range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        group = tile // (GROUP * column_tiles) * GROUP
        height = tl.minimum(row_tiles - group, GROUP)
        inside = tile % (GROUP * column_tiles)
        # int64, so that the base addresses cannot overflow
        first = (group + inside % height).to(tl.int64) * ROWS
        first_col = inside // height * BLOCK
        # What lies behind the last row or column reads the last one again, and is not written.
        row = tl.minimum(place, (rows - 1 - first).to(tl.int32))
        product_col = tl.arange(0, COLUMNS)  # the gates, then their values
        weight_row = tl.minimum(first_col + product_col % BLOCK, COLS - 1) + product_col // BLOCK * COLS
        x_tile = x_ptr + first * DEPTH + row[:, None] * DEPTH + step[None, :]
        weight_tile = weight_ptr + weight_row[:, None] * DEPTH + step[None, :]
        product = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for start in range(0, depth, STEP):
            if DEPTH % STEP == 0:
                x = tl.load(x_tile + start)  # (ROWS, STEP)
                weight = tl.load(weight_tile + start)  # (COLUMNS, STEP)
            else:
                x = tl.load(x_tile + start, mask=(start + step < DEPTH)[None, :], other=0.0)
                weight = tl.load(weight_tile + start, mask=(start + step < DEPTH)[None, :], other=0.0)
            product = tl.dot(x, tl.trans(weight), product, input_precision="ieee")
        # Two halves of the columns, gate and value or one after the other, which leaves registers for the function.
        left, right = tl.split(tl.permute(tl.reshape(product, (ROWS, 2, HALF)), (0, 2, 1)))
        col = first_col + tl.arange(0, HALF)
        in_rows = first + place < rows
        to_z = z_ptr + first * WIDTH if HAS_Z else None
        to_y = y_ptr + first * COLS
        _finish(
            left, right, to_z, to_y, bias_ptr, place, col, in_rows, COLS, ACTIVATION, IS_GATED, HAS_BIAS, HAS_Z
        )  # fmt: skip
        if not IS_GATED:
            _finish(
                right, right, to_z, to_y, bias_ptr, place, col + HALF, in_rows,
                COLS, ACTIVATION, IS_GATED, HAS_BIAS, HAS_Z,
            )  # fmt: skip


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, with_z: bool) -> tuple[Tensor, Tensor]:
    """y (T, F) and z (T, N), which is empty unless asked for."""
    (rows, depth), width = x.shape, len(weight)
    gated = activation in GATED
    cols = width // 2 if gated else width
    y = x.new_empty((rows, cols))
    z = x.new_empty((rows, width) if with_z else (0,))
    if y.numel() > 0:
        tile = _tile(x)
        tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns)
        with device_guard(x):
            _forward_kernel[(persistent_programs(x, tiles, _PROGRAMS_PER_MULTIPROCESSOR),)](
                x_ptr=x.contiguous(),
                weight_ptr=weight.contiguous(),
                bias_ptr=None if bias is None else bias.contiguous(),
                z_ptr=z if with_z else None,
                y_ptr=y,
                rows=rows,
                depth=depth,
                DEPTH=depth,
                COLS=cols,
                ACTIVATION=activation,
                IS_GATED=gated,
                HAS_BIAS=bias is not None,
                HAS_Z=with_z,
                ROWS=tile.rows,
                COLUMNS=tile.columns,
                STEP=tile.depth,
                GROUP=_GROUP,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )
    return y, z


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor,
    activation: str,
    for_x: bool,
    for_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx (T, D), dweight (N, D) and dbias (N,), the latter two in the accumulation dtype; empty where not wanted."""
    dz, dbias = torch.ops.unmask.gelu_bwd(dy, z, bias, activation, "triton")
    dx = dz @ weight if for_x else x.new_empty(0)
    if not for_weight:
        dweight = x.new_empty(0, dtype=torch.float32)
    elif x.device.type == "cuda" and x.element_size() == 2 and x.numel() > 0:
        dweight = torch.mm(dz.t(), x, out_dtype=torch.float32)
    else:
        dweight = dz.t().float() @ x.float()
    return dx, dweight, dbias


def _tile(x: Tensor) -> Tile:
    """Two programs a multiprocessor; sm_90 reads operands from shared memory in rows of 128 bytes, sm_80 in half."""
    if x.dtype == torch.float32:
        return Tile(64, 64, 32, 4, 1)
    if capability.architecture(x) == "sm_90":
        return Tile(128, 128, 64, 4, 3)
    return Tile(128, 128, 32, 4, 4)
