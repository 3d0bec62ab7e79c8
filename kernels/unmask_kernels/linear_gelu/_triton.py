"""Triton linear_gelu: a tiled product whose epilogue adds the bias, applies the activation and writes z and y.

z = x W^T, the product without its bias, is written for the backward alone. gelu's kernel there adds the bias again in
fp32 and sums its gradient on the way. Beside the operands, an element of y of s bytes moves 2 s (gated 3 s). A product
and then an activation move 3 s (gated 5 s).

Programs are persistent, and the loop over tiles and the loop over D are one: while a tile is in its epilogue, which
takes 23 instructions an element, the operands of the next tile arrive. On sm_90 a tile is as large as the registers
hold, since smaller tiles need more than the L2 cache is likely to give. On sm_80 two programs share a multiprocessor:
one multiplies while the other is in its epilogue. Programs take tiles in groups of eight tiles of rows and all columns,
so that what they read at the same time stays in the cache. A gated tile computes the gates and their values as one
product and splits it in registers.

An element is one sum in one order of D, without atomics and without a split of D. So results do not depend on timing,
and a row gives what it gives alone. docs/kernels/linear_gelu.md has the arithmetic.

Pointers: x (rows, DEPTH), weight (N, DEPTH), z (rows, N), y (rows, COLS) in the dtype of x, with N = COLS, or 2 COLS
where gated; bias (N,) fp32. z and bias may be None.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import capability
from .._triton.activation import activate, is_gated
from .._triton.fences import fenced_jit
from .._triton.launch import OPTIONS, device_guard, persistent_programs
from ..gelu.arguments import GATED
from ..product import grad_weight
from .arguments import Arguments, BackwardArguments, Gradients, Results
from .choice import LinearGeluCall, shape
from .tunables import TILE

__all__ = ["backward", "forward"]


class Tile(NamedTuple):
    """A tile of the product and how a program computes it.

    Attributes:
        rows: of the tile.
        columns: of the tile.
        step: columns of x that are multiplied at a time.
        warps: of a program.
        stages: steps whose operands are under way at once.
        programs: on a multiprocessor.
        group: tiles of rows that programs take together, with all columns.
    """

    rows: int
    columns: int
    step: int
    warps: int
    stages: int
    programs: int
    group: int = 8


@triton.jit
def _add_bias(z, bias_ptr, col, in_cols):
    return z + tl.load(bias_ptr + col, mask=in_cols, other=0.0)[None, :] if bias_ptr is not None else z


@triton.jit
def _halves(x):
    """The left and the right half of the columns."""
    return tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2)), (0, 2, 1)))


@triton.jit
def _write(ptr, value, row, col, mask, stride: tl.constexpr):
    tl.store(ptr + row[:, None] * stride + col[None, :], value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _finish(z, value, z_ptr, y_ptr, bias_ptr, row, col, in_rows, COLS: tl.constexpr, ACTIVATION: tl.constexpr):
    # Writes z (ROWS, PART), the value that it gates or None, and y into the rows that start at z_ptr and y_ptr.
    IS_GATED: tl.constexpr = is_gated(ACTIVATION)
    WIDTH: tl.constexpr = 2 * COLS if IS_GATED else COLS
    in_cols = col < COLS
    mask = in_rows[:, None] & in_cols[None, :]
    if z_ptr is not None:
        _write(z_ptr, z, row, col, mask, WIDTH)
        if IS_GATED:
            _write(z_ptr + COLS, value, row, col, mask, WIDTH)
    y, _ = activate(_add_bias(z, bias_ptr, col, in_cols), ACTIVATION)
    if IS_GATED:
        y *= _add_bias(value, bias_ptr + COLS if bias_ptr is not None else None, col, in_cols)
    _write(y_ptr, y, row, col, mask, COLS)


@fenced_jit(do_not_specialize=["rows", "depth"])
def _forward_kernel(
    x_ptr, weight_ptr, bias_ptr, z_ptr, y_ptr,
    rows, depth,
    DEPTH: tl.constexpr, COLS: tl.constexpr, ACTIVATION: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = TILE.rows
    COLUMNS: tl.constexpr = TILE.columns
    STEP: tl.constexpr = TILE.step
    GROUP: tl.constexpr = TILE.group
    IS_GATED: tl.constexpr = is_gated(ACTIVATION)
    BLOCK: tl.constexpr = COLUMNS // 2 if IS_GATED else COLUMNS  # columns of y
    PART: tl.constexpr = COLUMNS // 4
    WIDTH: tl.constexpr = 2 * COLS if IS_GATED else COLS
    column_tiles: tl.constexpr = (COLS + BLOCK - 1) // BLOCK
    row_tiles = tl.cdiv(rows, ROWS)
    tl.assume(depth > 0)  # or the compiler makes a second epilogue, for no product
    place = tl.arange(0, ROWS)
    step = tl.arange(0, STEP)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True):
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
        weight_tile = weight_ptr + weight_row[:, None].to(tl.int64) * DEPTH + step[None, :]
        product = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        # over the argument: the compiler would unroll a known number of steps, all of them
        for start in range(0, depth, STEP):
            if DEPTH % STEP == 0:
                x = tl.load(x_tile + start)  # (ROWS, STEP)
                weight = tl.load(weight_tile + start)  # (COLUMNS, STEP)
            else:
                x = tl.load(x_tile + start, mask=(start + step < DEPTH)[None, :], other=0.0)
                weight = tl.load(weight_tile + start, mask=(start + step < DEPTH)[None, :], other=0.0)
            product = tl.dot(x, tl.trans(weight), product, input_precision="ieee")
        # A quarter of the columns at a time, which leaves registers for the function.
        left, right = _halves(product)
        quarters = _halves(left) + _halves(right)
        for part in tl.static_range(2 if IS_GATED else 4):
            _finish(
                quarters[part], quarters[part + 2] if IS_GATED else None,
                z_ptr + first * WIDTH if z_ptr is not None else None, y_ptr + first * COLS, bias_ptr,
                place, first_col + part * PART + tl.arange(0, PART), first + place < rows,
                COLS, ACTIVATION,
            )  # fmt: skip


def forward(arguments: Arguments) -> Results:
    """Launch as many programs as run at once."""
    x, weight, bias, activation = arguments.x, arguments.narrow, arguments.bias, arguments.activation
    (rows, depth), width = x.shape, len(weight)
    cols = width // 2 if activation in GATED else width
    y = x.new_empty((rows, cols))
    z = x.new_empty((rows, width)) if arguments.with_z else None
    if y.numel() > 0:
        tile = _tile(x, LinearGeluCall(x.device.type, "", x.dtype, activation, depth, width))
        tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns)
        with device_guard(x):
            _forward_kernel[(persistent_programs(x, tiles, tile.programs),)](
                x_ptr=x.contiguous(),
                weight_ptr=weight.contiguous(),
                bias_ptr=None if bias is None else bias.contiguous(),
                z_ptr=z,
                y_ptr=y,
                rows=rows,
                depth=depth,
                DEPTH=depth,
                COLS=cols,
                ACTIVATION=activation,
                TILE=tile,
                num_warps=tile.warps,
                num_stages=tile.stages,
                **OPTIONS,
            )
    return Results(y, x.new_empty(0) if z is None else z)


def backward(arguments: BackwardArguments) -> Gradients:
    """Differentiate by gelu's Triton backward and PyTorch's products."""
    x = arguments.x
    dz, dbias = torch.ops.unmask.gelu_bwd(arguments.dy, arguments.z, arguments.bias, arguments.activation, "triton")
    dx = dz @ arguments.narrow if arguments.needs_x else x.new_empty(0)
    dtype = arguments.weight_dtype
    dweight = grad_weight(dz, x, dtype) if arguments.needs_weight else x.new_empty(0, dtype=dtype)
    return Gradients(dx, dweight, dbias)


def _tile(x: Tensor, call: LinearGeluCall) -> Tile:
    """A tile that spills nothing with Triton 3.6.0 and 3.9.0.

    The tensor cores of sm_90 read shared memory in rows of 128 bytes.
    """
    if x.dtype == torch.float32:
        return Tile(64, 64, 32, 4, 2, programs=4)
    text = TILE.value(shape(call))
    if text != "auto":
        rows, columns, step, warps, stages, programs = map(int, re.findall(r"\d+", text))
        return Tile(rows, columns, step, warps, stages, programs)
    if capability.architecture(x) == "sm_90":
        return Tile(128, 256, 64, 8, 4, programs=1)
    return Tile(128, 128, 32, 4, 4, programs=2)
