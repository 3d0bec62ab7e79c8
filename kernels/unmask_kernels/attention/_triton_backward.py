"""The backward kernels: one for short documents, one fused for longer ones, two for the longest.

    short_backward_kernel      a document of one tile and a head           dq, dk, dv                    5 products
    fused_backward_kernel      a document and a head                       dq, dk, dv                    5 products
    grad_query_kernel          a tile of rows and a head                   dq, and delta for the next    3 products
    grad_key_value_kernel      a tile of columns and a head                dk, dv                        4 products

With keep from dropout (1 without it), delta = rowsum(dP * P), and lse saved by the forward:

    S = q k^T       P = exp(scale S - lse)      dP = keep * (dout v^T)       dS = P * (dP - delta)
    dv = (P * keep)^T dout / (1 - p)            dq = scale / (1 - p) dS k    dk = scale / (1 - p) dS^T q

1 / (1 - p) is linear all the way, so it is applied to the results; delta = rowsum(dout * out) is multiplied by 1 - p
instead, because out has the factor already.

Where dk and dv are made, scores are held transposed, (columns, rows): P^T and dS^T then go from registers into the
products for dv and dk. Columns past the end of a document are copies of its last column: their P is finite, and nothing
of theirs is stored. Where dq is summed up k has zeros for them. So no element needs a mask.

The fused backward adds up dq over tiles of columns in a scratch of fp32 that belongs to the program, not to the
document, so that it stays in the L2 cache. The first visit of a tile of rows overwrites the scratch and the last one
writes dq, so the scratch is neither cleared nor converted. It lies in the order in which threads hold a result.

Short documents of one tile cost the same, and are dealt. Programs of the other kernels take an item when they are done
with the one before it.

Shapes: see `_triton_documents`. delta is fp32 (H, T) like lse; kernel arguments that `forward_kernel` explains mean the
same here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .._triton.fences import fenced_jit
from ._triton_documents import (
    load_item,
    load_rows,
    load_rows_clamped,
    next_number,
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
    """

    q_ptr: Any
    dq_ptr: Any
    dout_ptr: Any
    lse_ptr: Any
    delta_ptr: Any


class _Scales(NamedTuple):
    """scale * log2(e), scale / (1 - p) and 1 / (1 - p)."""

    log2: Any
    grad: Any
    inv_keep: Any


@triton.jit
def _locate(item, qkv_ptr, dqkv_ptr, dout_ptr, lse_ptr, delta_ptr, tokens, TILE: tl.constexpr):
    """The `_Pointers` of an item."""
    width: tl.constexpr = TILE.heads * TILE.head_dim
    in_qkv = item.start * 3 * width + item.head * TILE.head_dim
    in_out = item.start * width + item.head * TILE.head_dim
    in_lse = tl.cast(item.head, tl.int64) * tokens + item.start
    return _Pointers(qkv_ptr + in_qkv, dqkv_ptr + in_qkv, dout_ptr + in_out, lse_ptr + in_lse, delta_ptr + in_lse)


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
def _each_in_one_thread(first, ROWS: tl.constexpr):
    """first, first + 1, ..., as rows of a load that one thread does for all who use the element.

    Triton 3.6.0 would load a column of a few elements in the layout of the scores, in 16 threads each. To do so it
    computes the addresses there, which it cannot past a maximum: here that of one element, which is no instruction.
    """
    return first + tl.max(tl.arange(0, ROWS)[:, None], axis=1)


@triton.jit
def _add_to_dq(dS, k, pointers, scratch_ptr, column, row, length, left, right, scales, TILE: tl.constexpr):
    """Add dS^T (columns, rows) k (columns, block_k) to dq of the rows from `row` on, in the scratch between visits."""
    SIZE: tl.constexpr = TILE.rows * TILE.block_k
    low, high = visible_range(row, left, right, length, TILE.rows, TILE.columns)
    scratch_ptr += row * TILE.block_k + tl.arange(0, SIZE)
    # nothing is read on the first visit
    before = tl.load(scratch_ptr, mask=tl.zeros((SIZE,), tl.int32) < column - low, other=0.0)
    before = _from_register_order(before, TILE.rows, TILE.block_k)
    dq = tl.dot(tl.trans(k), dS, before, input_precision="ieee")  # (block_k, rows)
    if high > column + TILE.columns:
        tl.store(scratch_ptr, _in_register_order(dq, TILE.rows, TILE.block_k))
    else:
        stride: tl.constexpr = 3 * TILE.heads * TILE.head_dim
        store_rows(pointers.dq_ptr, tl.trans(dq) * scales.grad, row, length, stride, TILE.rows, TILE)


@triton.jit
def _add_rows(
    k, v, k_inside, dk, dv, pointers, scratch_ptr, dropout, item, column, row, left, right, scales,
    TILE: tl.constexpr,
):  # fmt: skip
    """Add the rows from `row` on to dk and dv (columns, block_k), and if there is a scratch, to dq."""
    width: tl.constexpr = TILE.heads * TILE.head_dim
    rows = row + tl.arange(0, TILE.rows)
    q = load_rows(pointers.q_ptr, row, item.length, 3 * width, TILE.rows, TILE)
    dout = load_rows(pointers.dout_ptr, row, item.length, width, TILE.rows, TILE)
    # q, dout, lse and delta are zeros for rows past the end: their P is 1 and adds nothing
    once = _each_in_one_thread(row, TILE.rows)
    lse = tl.load(pointers.lse_ptr + once, mask=once < item.length, other=0.0)
    delta = tl.load(pointers.delta_ptr + once, mask=once < item.length, other=0.0)
    S = tl.dot(k, tl.trans(q), input_precision="ieee")  # (columns, rows), as P, dP and dS
    P = tl.exp2(S * scales.log2 - lse[None, :])
    if TILE.banded:
        columns = column + tl.arange(0, TILE.columns)[:, None]
        P = tl.where(visible(rows[None, :], columns, left, right, item.length, TILE.banded), P, 0.0)
    dP = tl.dot(v, tl.trans(dout), input_precision="ieee")
    P_kept = P
    if dropout.key_ptr is not None:
        keep = keep_tile(dropout, item, row, column, TILE.rows, TILE.columns, TRANSPOSED=True)
        P_kept = tl.where(keep, P, 0.0)
        dP = tl.where(keep, dP, 0.0)
    dv = tl.dot(P_kept.to(dout.dtype), dout, dv, input_precision="ieee")
    dS = (P * (dP - delta[None, :])).to(q.dtype)
    dk = tl.dot(dS, q, dk, input_precision="ieee")
    if scratch_ptr is not None:
        _add_to_dq(dS, k_inside, pointers, scratch_ptr, column, row, item.length, left, right, scales, TILE)
    return dk, dv


@triton.jit
def _grad_columns(pointers, scratch_ptr, dropout, item, column, left, right, scales, TILE: tl.constexpr):
    """dk and dv of the columns from `column` on, from all rows that see them; with a scratch, their part of dq too."""
    COLUMNS: tl.constexpr = TILE.columns
    BLOCK_K: tl.constexpr = TILE.block_k
    width: tl.constexpr = TILE.heads * TILE.head_dim
    k = load_rows_clamped(pointers.q_ptr + width, column, item.length, 3 * width, TILE.columns, TILE)
    v = load_rows_clamped(pointers.q_ptr + 2 * width, column, item.length, 3 * width, TILE.columns, TILE)
    k_inside = k
    # in a band P is masked anyway
    if scratch_ptr is not None and not TILE.banded:
        k_inside = tl.where((column + tl.arange(0, TILE.columns) < item.length)[:, None], k, 0.0)
    dk = tl.zeros((COLUMNS, BLOCK_K), dtype=tl.float32)
    dv = tl.zeros((COLUMNS, BLOCK_K), dtype=tl.float32)
    low, high = visible_range(column, right, left, item.length, TILE.columns, TILE.rows)
    for row in range(low, high, TILE.rows):
        dk, dv = _add_rows(
            k, v, k_inside, dk, dv, pointers, scratch_ptr, dropout, item, column, row, left, right, scales, TILE
        )
    dk_ptr, dv_ptr = pointers.dq_ptr + width, pointers.dq_ptr + 2 * width
    store_rows(dk_ptr, dk * scales.grad, column, item.length, 3 * width, TILE.columns, TILE)
    store_rows(dv_ptr, dv * scales.inv_keep, column, item.length, 3 * width, TILE.columns, TILE)


@fenced_jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["key_ptr", "tickets_ptr"])
def grad_key_value_kernel(
    qkv_ptr, dout_ptr, lse_ptr, delta_ptr, dqkv_ptr, tiles_ptr, key_ptr, keys_ptr, bitmask_ptr,
    tickets_ptr, tokens, slots, upper, lower, left, right, scale_log2, scale_grad, inv_keep, threshold,
    HEAD_LINES: tl.constexpr, PARTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """dk and dv of the tiles of documents with a length in (BOUNDS[lower], BOUNDS[upper]]; delta_ptr is read."""
    dropout = Dropout(key_ptr, keys_ptr, bitmask_ptr, threshold, tokens, TILE.heads)
    scales = _Scales(scale_log2, scale_grad, inv_keep)
    first_line = HEAD_LINES + slots + tl.load(tiles_ptr + 4 * upper + 1)
    items = (HEAD_LINES + slots + tl.load(tiles_ptr + 4 * lower + 1) - first_line) * TILE.heads * PARTS
    index = tl.program_id(0)
    while index < items:
        part = index // TILE.heads
        item = load_item(tiles_ptr, first_line + part // PARTS, index % TILE.heads)
        column = item.first_row + part % PARTS * TILE.columns
        pointers = _locate(item, qkv_ptr, dqkv_ptr, dout_ptr, lse_ptr, delta_ptr, tokens, TILE)
        _grad_columns(pointers, None, dropout, item, column, left, right, scales, TILE)
        index = next_number(tickets_ptr)


@triton.jit
def _short_document(pointers, dropout, item, left, right, scales, TILE: tl.constexpr):
    """dq, dk and dv of a document that fits TILE. Everything is read once.

    delta is summed up in registers from P and dP, so out is not needed.
    """
    width: tl.constexpr = TILE.heads * TILE.head_dim
    stride: tl.constexpr = 3 * width
    # `first` is 0, but the compiler does not know it. Otherwise it keeps addresses from document to document.
    length, first = item.length, item.first_row
    row = tl.arange(0, TILE.rows)
    q = load_rows(pointers.q_ptr, first, length, stride, TILE.rows, TILE)
    k = load_rows(pointers.q_ptr + width, first, length, stride, TILE.rows, TILE)
    v = load_rows(pointers.q_ptr + 2 * width, first, length, stride, TILE.rows, TILE)
    dout = load_rows(pointers.dout_ptr, first, length, width, TILE.rows, TILE)
    lse = tl.load(pointers.lse_ptr + row, mask=row < length, other=0.0)
    S = tl.dot(q, tl.trans(k), input_precision="ieee")  # (rows, columns)
    P = tl.exp2(S * scales.log2 - lse[:, None])
    P = tl.where(visible(row[:, None], row[None, :], left, right, length, TILE.banded), P, 0.0)
    P_kept = P
    if dropout.key_ptr is not None:
        dP = tl.dot(dout, tl.trans(v), input_precision="ieee")
        keep = keep_tile(dropout, item, 0, 0, TILE.rows, TILE.rows)
        P_kept = tl.where(keep, P, 0.0)
        dP = tl.where(keep, dP, 0.0)
    dv = tl.dot(tl.trans(P_kept.to(dout.dtype)), dout, input_precision="ieee")
    if dropout.key_ptr is not None:
        dv *= scales.inv_keep
    store_rows(pointers.dq_ptr + 2 * width, dv, first, length, stride, TILE.rows, TILE)
    if dropout.key_ptr is None:
        # not before dv is stored: fewer values are in registers at a time
        dP = tl.dot(dout, tl.trans(v), input_precision="ieee")
    delta = tl.sum(P * dP, axis=1)
    dS = (P * (dP - delta[:, None])).to(q.dtype)
    dk = tl.dot(tl.trans(dS), q, input_precision="ieee")
    store_rows(pointers.dq_ptr + width, dk * scales.grad, first, length, stride, TILE.rows, TILE)
    dq = tl.dot(dS, k, input_precision="ieee")
    store_rows(pointers.dq_ptr, dq * scales.grad, first, length, stride, TILE.rows, TILE)


@fenced_jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["key_ptr", "tickets_ptr"])
def fused_backward_kernel(
    qkv_ptr, out_ptr, dout_ptr, lse_ptr, delta_ptr, dqkv_ptr, scratch_ptr, tiles_ptr, key_ptr, keys_ptr, bitmask_ptr,
    tickets_ptr, tokens, upper, lower, left, right, scale_log2, scale_grad, keep_probability, inv_keep, threshold,
    scratch_rows, HEAD_LINES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """dq, dk and dv of the documents with a length in (BOUNDS[lower], BOUNDS[upper]].

    delta_ptr is written and read. scratch_ptr: fp32 (programs, scratch_rows, block_k), uninitialised.
    """
    width: tl.constexpr = TILE.heads * TILE.head_dim
    dropout = Dropout(key_ptr, keys_ptr, bitmask_ptr, threshold, tokens, TILE.heads)
    scales = _Scales(scale_log2, scale_grad, inv_keep)
    scratch_ptr += tl.program_id(0).to(tl.int64) * scratch_rows * TILE.block_k
    first_line = HEAD_LINES + tl.load(tiles_ptr + 4 * upper)
    items = (HEAD_LINES + tl.load(tiles_ptr + 4 * lower) - first_line) * TILE.heads
    index = tl.program_id(0)
    while index < items:
        item = load_item(tiles_ptr, first_line + index // TILE.heads, index % TILE.heads)
        pointers = _locate(item, qkv_ptr, dqkv_ptr, dout_ptr, lse_ptr, delta_ptr, tokens, TILE)
        for first in range(0, item.length, TILE.rows):
            row = first + tl.arange(0, TILE.rows)
            out = load_rows(
                out_ptr + item.start * width + item.head * TILE.head_dim, first, item.length, width, TILE.rows, TILE
            )
            dout = load_rows(pointers.dout_ptr, first, item.length, width, TILE.rows, TILE)
            tl.store(pointers.delta_ptr + row, _delta(out, dout, keep_probability), mask=row < item.length)
        for column in range(0, item.length, TILE.columns):
            # what one thread wrote to delta or to the scratch, other threads of this program read
            tl.debug_barrier()
            _grad_columns(pointers, scratch_ptr, dropout, item, column, left, right, scales, TILE)
        # the next document uses the same scratch
        tl.debug_barrier()
        index = next_number(tickets_ptr)


@triton.jit
def _add_columns(
    q, dout, lse, delta, dq, pointers, dropout, item, first, column, left, right, scales,
    TILE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add the columns from `column` on to dq (rows, block_k) of the rows from `first` on."""
    width: tl.constexpr = TILE.heads * TILE.head_dim
    k = load_rows(pointers.q_ptr + width, column, item.length, 3 * width, TILE.columns, TILE)
    v = load_rows(pointers.q_ptr + 2 * width, column, item.length, 3 * width, TILE.columns, TILE)
    S = tl.dot(q, tl.trans(k), input_precision="ieee")  # (rows, columns)
    P = tl.exp2(S * scales.log2 - lse[:, None])
    if MASKED:
        rows = first + tl.arange(0, TILE.rows)[:, None]
        columns = column + tl.arange(0, TILE.columns)[None, :]
        P = tl.where(visible(rows, columns, left, right, item.length, TILE.banded), P, 0.0)
    dP = tl.dot(dout, tl.trans(v), input_precision="ieee")
    if dropout.key_ptr is not None:
        dP = tl.where(keep_tile(dropout, item, first, column, TILE.rows, TILE.columns), dP, 0.0)
    dS = (P * (dP - delta[:, None])).to(k.dtype)
    return tl.dot(dS, k, dq, input_precision="ieee")


@fenced_jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["key_ptr", "tickets_ptr"])
def grad_query_kernel(
    qkv_ptr, out_ptr, dout_ptr, lse_ptr, delta_ptr, dqkv_ptr, tiles_ptr, key_ptr, keys_ptr, bitmask_ptr,
    tickets_ptr, tokens, slots, upper, lower, left, right, scale_log2, scale_grad, keep_probability, threshold,
    HEAD_LINES: tl.constexpr, PARTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """dq and delta of the tiles of documents with a length in (BOUNDS[lower], BOUNDS[upper]]; delta_ptr is written."""
    ROWS: tl.constexpr = TILE.rows
    BLOCK_K: tl.constexpr = TILE.block_k
    width: tl.constexpr = TILE.heads * TILE.head_dim
    dropout = Dropout(key_ptr, keys_ptr, bitmask_ptr, threshold, tokens, TILE.heads)
    scales = _Scales(scale_log2, scale_grad, 1.0)
    begin = tl.load(tiles_ptr + 4 * upper + 1) * TILE.heads * PARTS
    end = tl.load(tiles_ptr + 4 * lower + 1) * TILE.heads * PARTS
    # its first item is a numbered one too: one register less, which Triton 3.6.0 would spill
    begin -= tl.num_programs(0)
    index = begin + next_number(tickets_ptr)
    while index < end:
        part = index // TILE.heads
        item = load_item(tiles_ptr, HEAD_LINES + slots + part // PARTS, index % TILE.heads)
        first = item.first_row + part % PARTS * TILE.rows
        pointers = _locate(item, qkv_ptr, dqkv_ptr, dout_ptr, lse_ptr, delta_ptr, tokens, TILE)
        row = first + tl.arange(0, TILE.rows)
        dout = load_rows(pointers.dout_ptr, first, item.length, width, TILE.rows, TILE)
        out = load_rows(
            out_ptr + item.start * width + item.head * TILE.head_dim, first, item.length, width, TILE.rows, TILE
        )
        delta = _delta(out, dout, keep_probability)
        tl.store(pointers.delta_ptr + row, delta, mask=row < item.length)
        lse = tl.load(pointers.lse_ptr + row, mask=row < item.length, other=0.0)
        q = load_rows(pointers.q_ptr, first, item.length, 3 * width, TILE.rows, TILE)
        dq = tl.zeros((ROWS, BLOCK_K), dtype=tl.float32)
        low, high = visible_range(first, left, right, item.length, TILE.rows, TILE.columns)
        # as in the forward, only the last tile has a mask, but for a band
        whole = low if TILE.banded else high // TILE.columns * TILE.columns
        if not TILE.banded:
            for column in range(low, whole, TILE.columns):
                dq = _add_columns(
                    q, dout, lse, delta, dq, pointers, dropout, item, first, column, left, right, scales, TILE, False
                )  # fmt: skip
        for column in tl.range(whole, high, TILE.columns, num_stages=None if TILE.banded else 1):
            dq = _add_columns(
                q, dout, lse, delta, dq, pointers, dropout, item, first, column, left, right, scales, TILE, True
            )  # fmt: skip
        store_rows(pointers.dq_ptr, dq * scale_grad, first, item.length, 3 * width, TILE.rows, TILE)
        index = begin + next_number(tickets_ptr)


@fenced_jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["key_ptr", "tickets_ptr"])
def short_backward_kernel(
    qkv_ptr, dout_ptr, lse_ptr, dqkv_ptr, tiles_ptr, key_ptr, keys_ptr, bitmask_ptr,
    tokens, upper, lower, left, right, scale_log2, scale_grad, inv_keep, threshold,
    HEAD_LINES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """dq, dk and dv of the documents with a length in (BOUNDS[lower], BOUNDS[upper]], which fit TILE."""
    dropout = Dropout(key_ptr, keys_ptr, bitmask_ptr, threshold, tokens, TILE.heads)
    scales = _Scales(scale_log2, scale_grad, inv_keep)
    begin = tl.load(tiles_ptr + 4 * upper) * TILE.heads
    end = tl.load(tiles_ptr + 4 * lower) * TILE.heads
    # all items cost the same, so they need no tickets, and the next one is fetched ahead
    for index in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        item = load_item(tiles_ptr, HEAD_LINES + index // TILE.heads, index % TILE.heads)
        pointers = _locate(item, qkv_ptr, dqkv_ptr, dout_ptr, lse_ptr, lse_ptr, tokens, TILE)
        _short_document(pointers, dropout, item, left, right, scales, TILE)
