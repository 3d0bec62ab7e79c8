"""Triton gelu: a tile of rows and columns in registers, one read and one write.

Memory bound. Traffic per element of y of s bytes, forward: x, y = 2 s (gated 3 s); backward: dy, x, dx = 3 s (gated
5 s). A program of the forward takes one tile. Programs of the backward own a block of columns and loop over its rows:
the gradient of the bias adds up in registers, and each program then writes its columns of one row of a (programs, N)
fp32 buffer, summed afterwards: no atomics, so the result does not depend on timing.

At 4 bytes an element and 4.3 TB/s an H200 has time for 31 instructions an element, and with CUDA's erf the forward has
40: hence the functions of `unmask_kernels._triton.activation`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels._triton.activation import activate
from unmask_kernels._triton.launch import OPTIONS, device_guard, persistent_programs

from .activations import GATED

__all__ = ["backward", "forward"]

_WARPS = 4
# A thread holds 16 elements of the forward's tile and 8 of the backward's, whose sums take registers too.
_TILE_FORWARD, _TILE_BACKWARD = 16 * 32 * _WARPS, 8 * 32 * _WARPS
_BLOCK = 256
# As many as the registers of a multiprocessor hold at once, so that no program waits for another to end.
_PROGRAMS_PER_MULTIPROCESSOR = {"gelu": 8, "gelu_tanh": 8, "geglu": 6, "swiglu": 6}


@triton.jit
def _load_sum(x_ptr, bias_ptr, offset, col, mask, in_cols, HAS_BIAS: tl.constexpr):
    z = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
    if HAS_BIAS:
        z += tl.load(bias_ptr + col, mask=in_cols, other=0.0)[None, :]
    return z


@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(
    x_ptr, bias_ptr, y_ptr,
    rows,
    COLS: tl.constexpr, ACTIVATION: tl.constexpr, IS_GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
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
    y, _ = activate(_load_sum(base, bias_ptr, offset, col, mask, in_cols, HAS_BIAS), ACTIVATION)
    if IS_GATED:
        y *= _load_sum(base + COLS, bias_ptr + COLS if HAS_BIAS else None, offset, col, mask, in_cols, HAS_BIAS)
    tl.store(y_ptr + first * COLS + row[:, None] * COLS + col[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _backward_kernel(
    dy_ptr, x_ptr, bias_ptr, dx_ptr, partial_ptr,
    rows,
    COLS: tl.constexpr, ACTIVATION: tl.constexpr, IS_GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
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
        y, slope = activate(_load_sum(base, bias_ptr, offset, col, mask, in_cols, HAS_BIAS), ACTIVATION)
        if IS_GATED:
            value = _load_sum(base + COLS, bias_ptr + COLS if HAS_BIAS else None, offset, col, mask, in_cols, HAS_BIAS)
            dvalue = dy * y
            tl.store(to + COLS + offset, dvalue.to(dx_ptr.dtype.element_ty), mask=mask)
            if HAS_BIAS:
                dbias_value += dvalue
            dy *= value
        dz = dy * slope
        tl.store(to + offset, dz.to(dx_ptr.dtype.element_ty), mask=mask)
        if HAS_BIAS:
            dbias += dz
    if HAS_BIAS:
        partial = partial_ptr + member * WIDTH + col
        tl.store(partial, tl.sum(dbias, axis=0), mask=in_cols)
        if IS_GATED:
            tl.store(partial + COLS, tl.sum(dbias_value, axis=0), mask=in_cols)


def forward(x: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """y (T, F)."""
    rows, cols = len(x), _output_width(x, activation)
    y = x.new_empty((rows, cols))
    if y.numel() > 0:
        block = _block(cols)
        tile_rows = _TILE_FORWARD // block
        with device_guard(x):
            _forward_kernel[(triton.cdiv(rows, tile_rows) * triton.cdiv(cols, block),)](
                x_ptr=x.contiguous(),
                bias_ptr=None if bias is None else bias.contiguous(),
                y_ptr=y,
                rows=rows,
                COLS=cols,
                ACTIVATION=activation,
                IS_GATED=activation in GATED,
                HAS_BIAS=bias is not None,
                ROWS=tile_rows,
                BLOCK=block,
                num_warps=_WARPS,
                **OPTIONS,
            )
    return y


def backward(dy: Tensor, x: Tensor, bias: Tensor | None, activation: str) -> tuple[Tensor, Tensor]:
    """dx (T, N) and dbias (N,), which is empty without a bias."""
    rows, cols = len(x), _output_width(x, activation)
    x = x.contiguous()
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx, x.new_empty(0, dtype=torch.float32) if bias is None else torch.zeros_like(bias)
    block = _block(cols)
    tile_rows, column_blocks = _TILE_BACKWARD // block, triton.cdiv(cols, block)
    row_tiles = triton.cdiv(rows, tile_rows)
    limit = persistent_programs(x, row_tiles * column_blocks, _PROGRAMS_PER_MULTIPROCESSOR[activation])
    members = max(1, min(row_tiles, limit // column_blocks))
    partial = x.new_empty((members, x.shape[1]) if bias is not None else (0,), dtype=torch.float32)
    with device_guard(x):
        _backward_kernel[(members * column_blocks,)](
            dy_ptr=dy.contiguous(),
            x_ptr=x,
            bias_ptr=None if bias is None else bias.contiguous(),
            dx_ptr=dx,
            partial_ptr=None if bias is None else partial,
            rows=rows,
            COLS=cols,
            ACTIVATION=activation,
            IS_GATED=activation in GATED,
            HAS_BIAS=bias is not None,
            ROWS=tile_rows,
            BLOCK=block,
            num_warps=_WARPS,
            **OPTIONS,
        )
    return dx, partial if bias is None else partial.sum(0)


def _output_width(x: Tensor, activation: str) -> int:
    return x.shape[1] // 2 if activation in GATED else x.shape[1]


def _block(cols: int) -> int:
    """Columns of a tile: a power of two, at most 256, in 16 bits one load of 16 bytes for each thread of a warp."""
    return min(_BLOCK, max(16, 1 << (cols - 1).bit_length()))
