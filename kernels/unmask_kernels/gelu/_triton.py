"""Triton gelu: a tile of rows and columns in registers, one read and one write.

The kernels are memory bound. An element of y of s bytes moves, in the forward, x and y: 2 s (gated 3 s); in the
backward dy, x and dx: 3 s (gated 5 s). A program of the forward takes one tile. A program of the backward owns a block
of columns and loops over its rows, and adds up the gradient of the bias in registers. It then writes its columns of one
row of a (programs, N) fp32 buffer, which PyTorch adds up. No sum is atomic, so the result does not depend on timing.

An H200 moves 4.3 TB/s. At 4 bytes an element that leaves time for 31 instructions an element, and with CUDA's erf the
forward has 40: hence the functions of `_triton.activation`.

Pointers: y, dy (rows, COLS) and x, dx (rows, N) in the dtype of x, with N = COLS, or 2 COLS where gated; bias (N,) fp32
or None; partial (programs, N) fp32, or None without a bias.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .._triton.activation import activate, is_gated
from .._triton.launch import OPTIONS, device_guard, persistent_programs
from .arguments import GATED, Arguments, BackwardArguments, Gradients, Results

__all__ = ["backward", "forward"]

_WARPS = 4
# A thread holds 16 elements of the forward's tile and 8 of the backward's, whose sums take registers too.
_TILE_FORWARD, _TILE_BACKWARD = 16 * 32 * _WARPS, 8 * 32 * _WARPS
_BLOCK = 256
# As many programs as the registers of a multiprocessor hold at once, so that no program waits for another to end.
_PROGRAMS_PER_MULTIPROCESSOR = {"gelu": 8, "gelu_tanh": 8, "geglu": 6, "swiglu": 6}


class Tile(NamedTuple):
    """Rows and columns that a program has at a time."""

    rows: int
    columns: int


@triton.jit
def _load_sum(x_ptr, bias_ptr, offset, col, mask, in_cols):
    z = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
    if bias_ptr is not None:
        z += tl.load(bias_ptr + col, mask=in_cols, other=0.0)[None, :]
    return z


@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(
    x_ptr, bias_ptr, y_ptr,
    rows,
    COLS: tl.constexpr, ACTIVATION: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = TILE.rows
    BLOCK: tl.constexpr = TILE.columns
    IS_GATED: tl.constexpr = is_gated(ACTIVATION)
    column_blocks = tl.cdiv(COLS, BLOCK)
    # Neighbouring programs take neighbouring columns; `first` is int64, so the base addresses cannot overflow.
    first = (tl.program_id(0) // column_blocks).to(tl.int64) * ROWS
    col = tl.program_id(0) % column_blocks * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS)
    in_cols = col < COLS
    mask = (first + row < rows)[:, None] & in_cols[None, :]
    WIDTH: tl.constexpr = 2 * COLS if IS_GATED else COLS
    base = x_ptr + first * WIDTH
    offset = row[:, None] * WIDTH + col[None, :]
    y, _ = activate(_load_sum(base, bias_ptr, offset, col, mask, in_cols), ACTIVATION)
    if IS_GATED:
        y *= _load_sum(base + COLS, bias_ptr + COLS if bias_ptr is not None else None, offset, col, mask, in_cols)
    tl.store(y_ptr + first * COLS + row[:, None] * COLS + col[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _backward_kernel(
    dy_ptr, x_ptr, bias_ptr, dx_ptr, partial_ptr,
    rows,
    COLS: tl.constexpr, ACTIVATION: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = TILE.rows
    BLOCK: tl.constexpr = TILE.columns
    IS_GATED: tl.constexpr = is_gated(ACTIVATION)
    column_blocks = tl.cdiv(COLS, BLOCK)
    member = tl.program_id(0) // column_blocks
    col = tl.program_id(0) % column_blocks * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS)
    in_cols = col < COLS
    WIDTH: tl.constexpr = 2 * COLS if IS_GATED else COLS
    offset = row[:, None] * WIDTH + col[None, :]
    dbias = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    dbias_value = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for tile in range(member, tl.cdiv(rows, ROWS), tl.num_programs(0) // column_blocks):
        first = tl.cast(tile, tl.int64) * ROWS
        mask = (first + row < rows)[:, None] & in_cols[None, :]
        # Outside the mask dy is 0, and so is every gradient.
        dy_offset = first * COLS + row[:, None] * COLS + col[None, :]
        dy = tl.load(dy_ptr + dy_offset, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
        base, to = x_ptr + first * WIDTH, dx_ptr + first * WIDTH
        y, slope = activate(_load_sum(base, bias_ptr, offset, col, mask, in_cols), ACTIVATION)
        if IS_GATED:
            value = _load_sum(
                base + COLS, bias_ptr + COLS if bias_ptr is not None else None, offset, col, mask, in_cols
            )
            dvalue = dy * y
            tl.store(to + COLS + offset, dvalue.to(dx_ptr.dtype.element_ty), mask=mask)
            if bias_ptr is not None:
                dbias_value += dvalue
            dy *= value
        dz = dy * slope
        tl.store(to + offset, dz.to(dx_ptr.dtype.element_ty), mask=mask)
        if bias_ptr is not None:
            dbias += dz
    if bias_ptr is not None:
        partial = partial_ptr + member * WIDTH + col
        tl.store(partial, tl.sum(dbias, axis=0), mask=in_cols)
        if IS_GATED:
            tl.store(partial + COLS, tl.sum(dbias_value, axis=0), mask=in_cols)


def forward(arguments: Arguments) -> Results:
    """Launch a program for each tile."""
    x, bias, activation = arguments
    rows, cols = len(x), _output_width(arguments)
    y = x.new_empty((rows, cols))
    if y.numel() > 0:
        tile = _tile(cols, _TILE_FORWARD)
        with device_guard(x):
            _forward_kernel[(triton.cdiv(rows, tile.rows) * triton.cdiv(cols, tile.columns),)](
                x_ptr=x.contiguous(),
                bias_ptr=None if bias is None else bias.contiguous(),
                y_ptr=y,
                rows=rows,
                COLS=cols,
                ACTIVATION=activation,
                TILE=tile,
                num_warps=_WARPS,
                **OPTIONS,
            )
    return Results(y)


def backward(arguments: BackwardArguments) -> Gradients:
    """Launch as many programs as run at once, and add up the gradients of the bias that they leave."""
    bias, activation = arguments.bias, arguments.activation
    x = arguments.x.contiguous()
    rows, cols = len(x), _output_width(arguments)
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return Gradients(dx, x.new_empty(0, dtype=torch.float32) if bias is None else torch.zeros_like(bias))
    tile = _tile(cols, _TILE_BACKWARD)
    row_tiles, column_tiles = triton.cdiv(rows, tile.rows), triton.cdiv(cols, tile.columns)
    limit = persistent_programs(x, row_tiles * column_tiles, _PROGRAMS_PER_MULTIPROCESSOR[activation])
    members = max(1, min(row_tiles, limit // column_tiles))
    partial = None if bias is None else x.new_empty((members, x.shape[1]), dtype=torch.float32)
    with device_guard(x):
        _backward_kernel[(members * column_tiles,)](
            dy_ptr=arguments.dy.contiguous(),
            x_ptr=x,
            bias_ptr=None if bias is None else bias.contiguous(),
            dx_ptr=dx,
            partial_ptr=partial,
            rows=rows,
            COLS=cols,
            ACTIVATION=activation,
            TILE=tile,
            num_warps=_WARPS,
            **OPTIONS,
        )
    return Gradients(dx, x.new_empty(0, dtype=torch.float32) if partial is None else partial.sum(0))


def _output_width(arguments: Arguments | BackwardArguments) -> int:
    width: int = arguments.x.shape[1]
    return width // 2 if arguments.activation in GATED else width


def _tile(cols: int, elements: int) -> Tile:
    """A tile of so many elements. Its columns are a power of two, at most 256.

    In 16 bits, 256 columns are one load of 16 bytes for each thread of a warp.
    """
    columns = min(_BLOCK, max(16, 1 << (cols - 1).bit_length()))
    return Tile(rows=elements // columns, columns=columns)
