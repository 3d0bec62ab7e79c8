"""The backward kernels, without atomics: one for short documents, one fused for longer ones, two for the longest.

    short_backward_kernel      a document of one tile and a head           dq, dk, dv                    5 products
    fused_backward_kernel      a document and a head                       dq, dk, dv                    5 products
    grad_query_kernel          a tile of rows and a head                   dq, and delta for the next    3 products
    grad_key_value_kernel      a tile of columns and a head                dk, dv                        4 products

With keep from dropout (1 without it), delta = rowsum(dP * P), and lse saved by the forward:

    S = q k^T       P = exp(scale S - lse)      dP = keep * (dout v^T)       dS = P * (dP - delta)
    dv = (P * keep)^T dout / (1 - p)            dq = scale / (1 - p) dS k    dk = scale / (1 - p) dS^T q

1 / (1 - p) is linear all the way, so it is applied to the results; delta = rowsum(dout * out) is multiplied by 1 - p
instead, because out has the factor already.

Where dk and dv are made, scores are held transposed, (COLUMNS, ROWS): P^T and dS^T then go from registers into the
products for dv and dk. Columns past the end of a document are copies of its last column: their P is finite, and nothing
of theirs is stored. Where dq is summed up k has zeros for them. So no element needs a mask.

The fused backward adds up dq over tiles of columns in a scratch of fp32 that belongs to the program, not to the
document, so that it stays in the L2 cache. The first visit of a tile of rows overwrites the scratch and the last one
writes dq, so the scratch is neither cleared nor converted. It lies in the order in which threads hold a result.

Shapes: see `_triton_documents`. delta is fp32 (H, T) like lse; kernel arguments that `forward_kernel` explains mean the
same here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ._triton_documents import (
    Tile,
    load_item,
    load_rows,
    load_rows_clamped,
    store_rows,
    visible,
    visible_range,
)
from ._triton_dropout import Dropout, keep_tile

__all__ = ["fused_backward_kernel", "grad_key_value_kernel", "grad_query_kernel", "short_backward_kernel"]

_NOT_COMPILED_IN = ["tokens", "slots", "upper", "lower", "left", "right", "threshold", "scratch_rows"]


class _Pointers(NamedTuple):
    """Where the tensors of one document and head start.

    Attributes:
        q_ptr, dq_ptr: rows of 3 H K elements; k and v, dk and dv follow at H K and 2 H K.
        dout_ptr: rows of H K elements.
        lse_ptr, delta_ptr: fp32, one value for each row.
        scratch_ptr: fp32 (rows, BLOCK_K); read by the fused backward only.
    """

    q_ptr: Any
    dq_ptr: Any
    dout_ptr: Any
    lse_ptr: Any
    delta_ptr: Any
    scratch_ptr: Any


class _Scales(NamedTuple):
    """scale * log2(e), scale / (1 - p) and 1 / (1 - p)."""

    log2: Any
    grad: Any
    inv_keep: Any


@triton.jit
def _delta(out, dout, keep_probability):
    return tl.sum(out.to(tl.float32) * dout.to(tl.float32), axis=1) * keep_probability


@triton.jit
def _in_register_order(tile, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """A tile (BLOCK_K, ROWS) as (ROWS * BLOCK_K,), in the order in which threads hold a tensor core's result.

    Loads and stores in this order need no exchange between threads. In any other layout they are right too.
    """
    tile = tl.reshape(tile, (BLOCK_K // 16, 2, 8, 2, ROWS // 16, 4, 2))
    return tl.reshape(tl.permute(tile, (4, 3, 0, 2, 5, 1, 6)), (ROWS * BLOCK_K,))


@triton.jit
def _from_register_order(values, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """The inverse of `_in_register_order`."""
    tile = tl.reshape(values, (ROWS // 16, 2, BLOCK_K // 16, 8, 4, 2, 2))
    return tl.reshape(tl.permute(tile, (2, 5, 3, 1, 0, 4, 6)), (BLOCK_K, ROWS))


@triton.jit
def _add_to_dq(dS, k, pointers, column, row, length, left, right, scales, tile):
    """Add dS^T (COLUMNS, ROWS) k (COLUMNS, BLOCK_K) to dq of the rows from `row` on, in the scratch between visits."""
    low, high = visible_range(row, left, right, length, tile.ROWS, tile.COLUMNS)
    scratch_ptr = pointers.scratch_ptr + row * tile.BLOCK_K + tl.arange(0, tile.ROWS * tile.BLOCK_K)
    # nothing is read on the first visit
    before = tl.load(scratch_ptr, mask=tl.zeros((tile.ROWS * tile.BLOCK_K,), tl.int32) < column - low, other=0.0)
    before = _from_register_order(before, tile.ROWS, tile.BLOCK_K)
    dq = tl.dot(tl.trans(k), dS, before, input_precision="ieee")  # (BLOCK_K, ROWS)
    if high > column + tile.COLUMNS:
        tl.store(scratch_ptr, _in_register_order(dq, tile.ROWS, tile.BLOCK_K))
    else:
        stride: tl.constexpr = 3 * tile.HEADS * tile.K
        store_rows(pointers.dq_ptr, tl.trans(dq) * scales.grad, row, length, stride, tile.K, tile.ROWS, tile.BLOCK_K)


@triton.jit
def _add_rows(
    k, v, k_inside, dk, dv, pointers, dropout, item, column, row, left, right, scales, tile, FUSED: tl.constexpr
):
    """Add the rows from `row` on to dk, dv (COLUMNS, BLOCK_K) of the columns from `column` on; if FUSED, to dq too."""
    width: tl.constexpr = tile.HEADS * tile.K
    rows = row + tl.arange(0, tile.ROWS)
    q = load_rows(pointers.q_ptr, row, item.length, 3 * width, tile.K, tile.ROWS, tile.BLOCK_K)
    dout = load_rows(pointers.dout_ptr, row, item.length, width, tile.K, tile.ROWS, tile.BLOCK_K)
    # q, dout, lse and delta are zeros for rows past the end: their P is 1 and adds nothing
    lse = tl.load(pointers.lse_ptr + rows, mask=rows < item.length, other=0.0)
    delta = tl.load(pointers.delta_ptr + rows, mask=rows < item.length, other=0.0)
    S = tl.dot(k, tl.trans(q), input_precision="ieee")  # (COLUMNS, ROWS), as P, dP and dS
    P = tl.exp2(S * scales.log2 - lse[None, :])
    if tile.BANDED:
        columns = column + tl.arange(0, tile.COLUMNS)[:, None]
        P = tl.where(visible(rows[None, :], columns, left, right, item.length, tile.BANDED), P, 0.0)
    dP = tl.dot(v, tl.trans(dout), input_precision="ieee")
    P_kept = P
    if dropout.key_ptr is not None:
        keep = keep_tile(dropout, item, row, column, tile.ROWS, tile.COLUMNS, TRANSPOSED=True)
        P_kept = tl.where(keep, P, 0.0)
        dP = tl.where(keep, dP, 0.0)
    dv = tl.dot(P_kept.to(dout.dtype), dout, dv, input_precision="ieee")
    dS = (P * (dP - delta[None, :])).to(q.dtype)
    dk = tl.dot(dS, q, dk, input_precision="ieee")
    if FUSED:
        _add_to_dq(dS, k_inside, pointers, column, row, item.length, left, right, scales, tile)
    return dk, dv


@triton.jit
def _grad_columns(pointers, dropout, item, column, left, right, scales, tile, FUSED: tl.constexpr):
    """dk and dv of the columns from `column` on, from all rows that see them; if FUSED, their part of dq too."""
    width: tl.constexpr = tile.HEADS * tile.K
    k = load_rows_clamped(pointers.q_ptr + width, column, item.length, 3 * width, tile.K, tile.COLUMNS, tile.BLOCK_K)
    v = load_rows_clamped(
        pointers.q_ptr + 2 * width, column, item.length, 3 * width, tile.K, tile.COLUMNS, tile.BLOCK_K
    )
    k_inside = k
    # in a band P is masked anyway
    if FUSED and not tile.BANDED:
        k_inside = tl.where((column + tl.arange(0, tile.COLUMNS) < item.length)[:, None], k, 0.0)
    dk = tl.zeros((tile.COLUMNS, tile.BLOCK_K), dtype=tl.float32)
    dv = tl.zeros((tile.COLUMNS, tile.BLOCK_K), dtype=tl.float32)
    low, high = visible_range(column, right, left, item.length, tile.COLUMNS, tile.ROWS)
    for row in range(low, high, tile.ROWS):
        dk, dv = _add_rows(
            k, v, k_inside, dk, dv, pointers, dropout, item, column, row, left, right, scales, tile, FUSED
        )
    dk_ptr, dv_ptr = pointers.dq_ptr + width, pointers.dq_ptr + 2 * width
    store_rows(dk_ptr, dk * scales.grad, column, item.length, 3 * width, tile.K, tile.COLUMNS, tile.BLOCK_K)
    store_rows(dv_ptr, dv * scales.inv_keep, column, item.length, 3 * width, tile.K, tile.COLUMNS, tile.BLOCK_K)


@triton.jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["key_ptr"])
def grad_key_value_kernel(
    qkv_ptr, dout_ptr, lse_ptr, delta_ptr, dqkv_ptr, tiles_ptr, key_ptr, keys_ptr, bitmask_ptr,
    tokens, slots, upper, lower, left, right, scale_log2, scale_grad, inv_keep, threshold,
    HEADS: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HEAD_LINES: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dk and dv of the tiles of documents with a length in (BOUNDS[lower], BOUNDS[upper]]; delta_ptr is read."""
    width: tl.constexpr = HEADS * K
    dropout = Dropout(key_ptr, keys_ptr, bitmask_ptr, threshold, tokens, HEADS)
    scales = _Scales(scale_log2, scale_grad, inv_keep)
    begin = tl.load(tiles_ptr + 4 * upper + 1) * HEADS * PARTS
    end = tl.load(tiles_ptr + 4 * lower + 1) * HEADS * PARTS
    for index in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        part = index // HEADS
        item = load_item(tiles_ptr, HEAD_LINES + slots + part // PARTS, index % HEADS)
        column = item.first_row + part % PARTS * COLUMNS
        row_values = tl.cast(item.head, tl.int64) * tokens + item.start
        pointers = _Pointers(
            qkv_ptr + item.start * 3 * width + item.head * K, dqkv_ptr + item.start * 3 * width + item.head * K,
            dout_ptr + item.start * width + item.head * K, lse_ptr + row_values, delta_ptr + row_values, delta_ptr,
        )  # fmt: skip
        _grad_columns(
            pointers, dropout, item, column, left, right, scales,
            Tile(ROWS, COLUMNS, HEADS, K, BLOCK_K, BANDED), False,
        )  # fmt: skip


@triton.jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["key_ptr"])
def fused_backward_kernel(
    qkv_ptr, out_ptr, dout_ptr, lse_ptr, delta_ptr, dqkv_ptr, scratch_ptr, tiles_ptr, key_ptr, keys_ptr, bitmask_ptr,
    tokens, upper, lower, left, right, scale_log2, scale_grad, keep_probability, inv_keep, threshold, scratch_rows,
    HEADS: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HEAD_LINES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dq, dk and dv of the documents with a length in (BOUNDS[lower], BOUNDS[upper]].

    delta_ptr is written and read. scratch_ptr: fp32 (programs, scratch_rows, BLOCK_K), uninitialised.
    """
    width: tl.constexpr = HEADS * K
    dropout = Dropout(key_ptr, keys_ptr, bitmask_ptr, threshold, tokens, HEADS)
    scales = _Scales(scale_log2, scale_grad, inv_keep)
    scratch_ptr += tl.program_id(0).to(tl.int64) * scratch_rows * BLOCK_K
    begin = tl.load(tiles_ptr + 4 * upper) * HEADS
    end = tl.load(tiles_ptr + 4 * lower) * HEADS
    for index in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        item = load_item(tiles_ptr, HEAD_LINES + index // HEADS, index % HEADS)
        row_values = tl.cast(item.head, tl.int64) * tokens + item.start
        pointers = _Pointers(
            qkv_ptr + item.start * 3 * width + item.head * K, dqkv_ptr + item.start * 3 * width + item.head * K,
            dout_ptr + item.start * width + item.head * K, lse_ptr + row_values, delta_ptr + row_values, scratch_ptr,
        )  # fmt: skip
        for first in range(0, item.length, ROWS):
            row = first + tl.arange(0, ROWS)
            out = load_rows(out_ptr + item.start * width + item.head * K, first, item.length, width, K, ROWS, BLOCK_K)
            dout = load_rows(pointers.dout_ptr, first, item.length, width, K, ROWS, BLOCK_K)
            tl.store(pointers.delta_ptr + row, _delta(out, dout, keep_probability), mask=row < item.length)
        for column in range(0, item.length, COLUMNS):
            # what one thread wrote to delta or to the scratch, other threads of this program read
            tl.debug_barrier()
            _grad_columns(
                pointers, dropout, item, column, left, right, scales, Tile(ROWS, COLUMNS, HEADS, K, BLOCK_K, BANDED),
                True
            )  # fmt: skip
        # the next document uses the same scratch
        tl.debug_barrier()


@triton.jit
def _add_columns(
    q, dout, lse, delta, dq, pointers, dropout, item, first, column, left, right, scales, tile, MASKED: tl.constexpr
):  # fmt: skip
    """Add the columns from `column` on to dq (ROWS, BLOCK_K) of the rows from `first` on."""
    width: tl.constexpr = tile.HEADS * tile.K
    k = load_rows(pointers.q_ptr + width, column, item.length, 3 * width, tile.K, tile.COLUMNS, tile.BLOCK_K)
    v = load_rows(pointers.q_ptr + 2 * width, column, item.length, 3 * width, tile.K, tile.COLUMNS, tile.BLOCK_K)
    S = tl.dot(q, tl.trans(k), input_precision="ieee")  # (ROWS, COLUMNS)
    P = tl.exp2(S * scales.log2 - lse[:, None])
    if MASKED:
        rows = first + tl.arange(0, tile.ROWS)[:, None]
        columns = column + tl.arange(0, tile.COLUMNS)[None, :]
        P = tl.where(visible(rows, columns, left, right, item.length, tile.BANDED), P, 0.0)
    dP = tl.dot(dout, tl.trans(v), input_precision="ieee")
    if dropout.key_ptr is not None:
        dP = tl.where(keep_tile(dropout, item, first, column, tile.ROWS, tile.COLUMNS), dP, 0.0)
    dS = (P * (dP - delta[:, None])).to(k.dtype)
    return tl.dot(dS, k, dq, input_precision="ieee")


@triton.jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["key_ptr"])
def grad_query_kernel(
    qkv_ptr, out_ptr, dout_ptr, lse_ptr, delta_ptr, dqkv_ptr, tiles_ptr, key_ptr, keys_ptr, bitmask_ptr,
    tokens, slots, upper, lower, left, right, scale_log2, scale_grad, keep_probability, threshold,
    HEADS: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HEAD_LINES: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dq and delta of the tiles of documents with a length in (BOUNDS[lower], BOUNDS[upper]]; delta_ptr is written."""
    width: tl.constexpr = HEADS * K
    dropout = Dropout(key_ptr, keys_ptr, bitmask_ptr, threshold, tokens, HEADS)
    scales = _Scales(scale_log2, scale_grad, 1.0)
    begin = tl.load(tiles_ptr + 4 * upper + 1) * HEADS * PARTS
    end = tl.load(tiles_ptr + 4 * lower + 1) * HEADS * PARTS
    for index in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        part = index // HEADS
        item = load_item(tiles_ptr, HEAD_LINES + slots + part // PARTS, index % HEADS)
        first = item.first_row + part % PARTS * ROWS
        row_values = tl.cast(item.head, tl.int64) * tokens + item.start
        pointers = _Pointers(
            qkv_ptr + item.start * 3 * width + item.head * K, dqkv_ptr + item.start * 3 * width + item.head * K,
            dout_ptr + item.start * width + item.head * K, lse_ptr + row_values, delta_ptr + row_values, delta_ptr,
        )  # fmt: skip
        row = first + tl.arange(0, ROWS)
        dout = load_rows(pointers.dout_ptr, first, item.length, width, K, ROWS, BLOCK_K)
        out = load_rows(out_ptr + item.start * width + item.head * K, first, item.length, width, K, ROWS, BLOCK_K)
        delta = _delta(out, dout, keep_probability)
        tl.store(pointers.delta_ptr + row, delta, mask=row < item.length)
        lse = tl.load(pointers.lse_ptr + row, mask=row < item.length, other=0.0)
        q = load_rows(pointers.q_ptr, first, item.length, 3 * width, K, ROWS, BLOCK_K)
        dq = tl.zeros((ROWS, BLOCK_K), dtype=tl.float32)
        low, high = visible_range(first, left, right, item.length, ROWS, COLUMNS)
        # as in the forward, only the last tile has a mask, but for a band
        whole = low if BANDED else high // COLUMNS * COLUMNS
        if not BANDED:
            for column in range(low, whole, COLUMNS):
                dq = _add_columns(
                    q, dout, lse, delta, dq, pointers, dropout, item, first, column, left, right, scales,
                    Tile(ROWS, COLUMNS, HEADS, K, BLOCK_K, BANDED), False,
                )  # fmt: skip
        for column in tl.range(whole, high, COLUMNS, num_stages=None if BANDED else 1):
            dq = _add_columns(
                q, dout, lse, delta, dq, pointers, dropout, item, first, column, left, right, scales,
                Tile(ROWS, COLUMNS, HEADS, K, BLOCK_K, BANDED), True,
            )  # fmt: skip
        store_rows(pointers.dq_ptr, dq * scale_grad, first, item.length, 3 * width, K, ROWS, BLOCK_K)


@triton.jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["key_ptr"])
def short_backward_kernel(
    qkv_ptr, dout_ptr, lse_ptr, dqkv_ptr, tiles_ptr, key_ptr, keys_ptr, bitmask_ptr,
    tokens, upper, lower, left, right, scale_log2, scale_grad, inv_keep, threshold,
    HEADS: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HEAD_LINES: tl.constexpr,
    SHORT: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dq, dk and dv of the documents with a length in (BOUNDS[lower], BOUNDS[upper]], at most SHORT tokens.

    Everything is read once. delta is summed up in registers from P and dP, so out is not needed.
    """
    width: tl.constexpr = HEADS * K
    stride: tl.constexpr = 3 * width
    row = tl.arange(0, SHORT)
    dropout = Dropout(key_ptr, keys_ptr, bitmask_ptr, threshold, tokens, HEADS)
    begin = tl.load(tiles_ptr + 4 * upper) * HEADS
    end = tl.load(tiles_ptr + 4 * lower) * HEADS
    for index in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        item = load_item(tiles_ptr, HEAD_LINES + index // HEADS, index % HEADS)
        length = item.length
        q_ptr = qkv_ptr + item.start * stride + item.head * K
        dq_ptr = dqkv_ptr + item.start * stride + item.head * K
        lse_row_ptr = lse_ptr + tl.cast(item.head, tl.int64) * tokens + item.start + row
        q = load_rows(q_ptr, 0, length, stride, K, SHORT, BLOCK_K)
        k = load_rows(q_ptr + width, 0, length, stride, K, SHORT, BLOCK_K)
        v = load_rows(q_ptr + 2 * width, 0, length, stride, K, SHORT, BLOCK_K)
        dout = load_rows(dout_ptr + item.start * width + item.head * K, 0, length, width, K, SHORT, BLOCK_K)
        lse = tl.load(lse_row_ptr, mask=row < length, other=0.0)
        S = tl.dot(q, tl.trans(k), input_precision="ieee")  # (SHORT, SHORT)
        P = tl.exp2(S * scale_log2 - lse[:, None])
        P = tl.where(visible(row[:, None], row[None, :], left, right, length, BANDED), P, 0.0)
        dP = tl.dot(dout, tl.trans(v), input_precision="ieee")
        P_kept = P
        if key_ptr is not None:
            keep = keep_tile(dropout, item, 0, 0, SHORT, SHORT)
            P_kept = tl.where(keep, P, 0.0)
            dP = tl.where(keep, dP, 0.0)
        dv = tl.dot(tl.trans(P_kept.to(dout.dtype)), dout, input_precision="ieee")
        if key_ptr is not None:
            dv *= inv_keep
        store_rows(dq_ptr + 2 * width, dv, 0, length, stride, K, SHORT, BLOCK_K)
        delta = tl.sum(P * dP, axis=1)
        dS = (P * (dP - delta[:, None])).to(q.dtype)
        dk = tl.dot(tl.trans(dS), q, input_precision="ieee")
        store_rows(dq_ptr + width, dk * scale_grad, 0, length, stride, K, SHORT, BLOCK_K)
        dq = tl.dot(dS, k, input_precision="ieee")
        store_rows(dq_ptr, dq * scale_grad, 0, length, stride, K, SHORT, BLOCK_K)
