"""The backward kernels for documents longer than a tile, in two forms, both without atomics.

    two passes   grad_query_kernel        a tile of rows and a head: dq, and delta = rowsum(dout * out) for the others
                 grad_key_value_kernel    a tile of columns and a head: dk and dv; scores are formed again: 7 products
    owner        owner_kernel             a document and a head: 5 products, dq added up in fp32 in a scratch of its own

A tile of columns holds its scores transposed, (COLUMNS, ROWS), so that weights and dscores go from registers into the
products for dv and dk; the owner's product for dq is the only one that crosses threads. The scratch belongs to a
program, not to a document, so it stays in the L2 cache; a row tile's first visit overwrites it and its last one writes
dq, so it is neither cleared nor converted. 1 / (1 - p) is linear all the way and is applied to the results: delta is
taken times 1 - p instead. With D = weights * keep:

    dv = D^T dout / (1 - p)      dscores = weights * (keep * dout v^T - delta)      dq, dk = scale / (1 - p) dscores ...
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_tile import entry, keep_tile, load_rows, partners, store_rows, visible

__all__ = ["grad_key_value_kernel", "grad_query_kernel", "owner_kernel"]

_SETTINGS = ["tokens", "slots", "upper", "lower", "back", "ahead", "threshold", "scratch_rows"]


@triton.jit
def _delta(out, dout, kept):
    return tl.sum(out.to(tl.float32) * dout.to(tl.float32), axis=1) * kept


@triton.jit
def _fold_rows(
    k, v, dk, dv, q_ptr, dq_ptr, dout_ptr, lse_ptr, delta_ptr, scratch_ptr, dropout, first, start, length,
    back, ahead, factor, factor_grad,
    width: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HAS_DROPOUT: tl.constexpr, OWNER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows from start on into dk, dv (COLUMNS, BLOCK_K) of the columns from first on; the owner also adds to dq."""
    row = start + tl.arange(0, ROWS)
    q = load_rows(q_ptr, start, length, 3 * width, K, ROWS, BLOCK_K)
    dout = load_rows(dout_ptr, start, length, width, K, ROWS, BLOCK_K)
    # rows past the end get weight 0
    lse = tl.load(lse_ptr + row, mask=row < length, other=float("inf"))
    delta = tl.load(delta_ptr + row, mask=row < length, other=0.0)
    scores = tl.dot(k, tl.trans(q), input_precision="ieee")  # (COLUMNS, ROWS)
    weights = tl.exp2(scores * factor - lse[None, :])
    # columns past the end spoil their own gradients, which are not stored, and dq
    if BANDED or OWNER:
        columns = first + tl.arange(0, COLUMNS)[:, None]
        weights = tl.where(visible(row[None, :], columns, back, ahead, length, BANDED), weights, 0.0)
    dweights = tl.dot(v, tl.trans(dout), input_precision="ieee")
    dropped = weights
    if HAS_DROPOUT:
        keep = keep_tile(dropout, start, first, length, ROWS, COLUMNS, TRANSPOSED=True)
        dropped = tl.where(keep, weights, 0.0)
        dweights = tl.where(keep, dweights, 0.0)
    dv = tl.dot(dropped.to(dout.dtype), dout, dv, input_precision="ieee")
    dscores = (weights * (dweights - delta[None, :])).to(q.dtype)
    dk = tl.dot(dscores, q, dk, input_precision="ieee")
    if OWNER:
        dq = tl.dot(tl.trans(dscores), k, input_precision="ieee")  # (ROWS, BLOCK_K)
        low, high = partners(start, back, ahead, length, ROWS, COLUMNS)
        offsets = row[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
        # no rows are read on the first visit, none are kept after the last
        before = tl.where(first > low, length, 0)
        after = tl.where(high > first + COLUMNS, length, 0)
        dq += tl.load(scratch_ptr + offsets, mask=row[:, None] < before, other=0.0)
        tl.store(scratch_ptr + offsets, dq, mask=row[:, None] < after)
        store_rows(dq_ptr, dq * factor_grad, start, length - after, 3 * width, K, ROWS, BLOCK_K)
    return dk, dv


@triton.jit
def _column_tile(
    q_ptr, dq_ptr, dout_ptr, lse_ptr, delta_ptr, scratch_ptr, dropout, first, length,
    back, ahead, factor, factor_grad, restore,
    width: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HAS_DROPOUT: tl.constexpr, OWNER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dk and dv of the columns from first on, from all rows that see them."""
    stride: tl.constexpr = 3 * width
    k = load_rows(q_ptr + width, first, length, stride, K, COLUMNS, BLOCK_K)
    v = load_rows(q_ptr + 2 * width, first, length, stride, K, COLUMNS, BLOCK_K)
    dk = tl.zeros((COLUMNS, BLOCK_K), dtype=tl.float32)
    dv = tl.zeros((COLUMNS, BLOCK_K), dtype=tl.float32)
    low, high = partners(first, ahead, back, length, COLUMNS, ROWS)
    for start in range(low, high, ROWS):
        dk, dv = _fold_rows(
            k, v, dk, dv, q_ptr, dq_ptr, dout_ptr, lse_ptr, delta_ptr, scratch_ptr, dropout, first, start, length,
            back, ahead, factor, factor_grad,
            width, K, BANDED, HAS_DROPOUT, OWNER, ROWS, COLUMNS, BLOCK_K,
        )  # fmt: skip
    store_rows(dq_ptr + width, dk * factor_grad, first, length, stride, K, COLUMNS, BLOCK_K)
    store_rows(dq_ptr + 2 * width, dv * restore, first, length, stride, K, COLUMNS, BLOCK_K)


@triton.jit(do_not_specialize=_SETTINGS, do_not_specialize_on_alignment=["key_ptr"])
def grad_key_value_kernel(
    qkv_ptr, dout_ptr, lse_ptr, delta_ptr, dqkv_ptr, tiles_ptr, key_ptr, keys_ptr, words_ptr,
    tokens, slots, upper, lower, back, ahead, factor, factor_grad, restore, threshold,
    HEADS: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HAS_DROPOUT: tl.constexpr, LISTS: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dk and dv of the tiles of documents with a length in (BOUNDS[lower], BOUNDS[upper]]."""
    width: tl.constexpr = HEADS * K
    begin = tl.load(tiles_ptr + 4 * upper + 1) * HEADS * PARTS
    end = tl.load(tiles_ptr + 4 * lower + 1) * HEADS * PARTS
    for item in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        head, tile = item % HEADS, item // HEADS
        document, first, start, length = entry(tiles_ptr, LISTS + slots + tile // PARTS)
        first += tile % PARTS * COLUMNS
        statistics = tl.cast(head, tl.int64) * tokens + start
        dropout = (key_ptr, keys_ptr, words_ptr, document, head, start, tokens, threshold, HEADS)
        _column_tile(
            qkv_ptr + start * 3 * width + head * K, dqkv_ptr + start * 3 * width + head * K,
            dout_ptr + start * width + head * K, lse_ptr + statistics, delta_ptr + statistics, delta_ptr,
            dropout, first, length, back, ahead, factor, factor_grad, restore,
            width, K, BANDED, HAS_DROPOUT, False, ROWS, COLUMNS, BLOCK_K,
        )  # fmt: skip


@triton.jit(do_not_specialize=_SETTINGS, do_not_specialize_on_alignment=["key_ptr"])
def owner_kernel(
    qkv_ptr, out_ptr, dout_ptr, lse_ptr, delta_ptr, dqkv_ptr, scratch_ptr, tiles_ptr, key_ptr, keys_ptr, words_ptr,
    tokens, upper, lower, back, ahead, factor, factor_grad, kept, restore, threshold, scratch_rows,
    HEADS: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HAS_DROPOUT: tl.constexpr, LISTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dq, dk and dv of the documents with a length in (BOUNDS[lower], BOUNDS[upper]]."""
    width: tl.constexpr = HEADS * K
    scratch_ptr += tl.program_id(0).to(tl.int64) * scratch_rows * BLOCK_K
    begin = tl.load(tiles_ptr + 4 * upper) * HEADS
    end = tl.load(tiles_ptr + 4 * lower) * HEADS
    for item in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        head = item % HEADS
        document, _, start, length = entry(tiles_ptr, LISTS + item // HEADS)
        statistics = tl.cast(head, tl.int64) * tokens + start
        dropout = (key_ptr, keys_ptr, words_ptr, document, head, start, tokens, threshold, HEADS)
        dout_at = dout_ptr + start * width + head * K
        for first in range(0, length, ROWS):
            row = first + tl.arange(0, ROWS)
            out = load_rows(out_ptr + start * width + head * K, first, length, width, K, ROWS, BLOCK_K)
            dout = load_rows(dout_at, first, length, width, K, ROWS, BLOCK_K)
            tl.store(delta_ptr + statistics + row, _delta(out, dout, kept), mask=row < length)
        for first in range(0, length, COLUMNS):
            # what a thread wrote, delta or scratch, is read by others of this program
            tl.debug_barrier()
            _column_tile(
                qkv_ptr + start * 3 * width + head * K, dqkv_ptr + start * 3 * width + head * K,
                dout_at, lse_ptr + statistics, delta_ptr + statistics, scratch_ptr, dropout, first, length,
                back, ahead, factor, factor_grad, restore,
                width, K, BANDED, HAS_DROPOUT, True, ROWS, COLUMNS, BLOCK_K,
            )  # fmt: skip
        # the next document uses the scratch again
        tl.debug_barrier()


@triton.jit
def _fold_columns(
    q, dout, lse, delta, dq, q_ptr, dropout, first, column, length,
    back, ahead, factor, width: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr,
    HAS_DROPOUT: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of columns into dq (ROWS, BLOCK_K) of a tile of rows."""
    k = load_rows(q_ptr + width, column, length, 3 * width, K, COLUMNS, BLOCK_K)
    v = load_rows(q_ptr + 2 * width, column, length, 3 * width, K, COLUMNS, BLOCK_K)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # (ROWS, COLUMNS)
    weights = tl.exp2(scores * factor - lse[:, None])
    if MASKED:
        rows = first + tl.arange(0, ROWS)[:, None]
        columns = column + tl.arange(0, COLUMNS)[None, :]
        weights = tl.where(visible(rows, columns, back, ahead, length, BANDED), weights, 0.0)
    dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
    if HAS_DROPOUT:
        keep = keep_tile(dropout, first, column, length, ROWS, COLUMNS)
        dweights = tl.where(keep, dweights, 0.0)
    dscores = (weights * (dweights - delta[:, None])).to(k.dtype)
    return tl.dot(dscores, k, dq, input_precision="ieee")


@triton.jit(do_not_specialize=_SETTINGS, do_not_specialize_on_alignment=["key_ptr"])
def grad_query_kernel(
    qkv_ptr, out_ptr, dout_ptr, lse_ptr, delta_ptr, dqkv_ptr, tiles_ptr, key_ptr, keys_ptr, words_ptr,
    tokens, slots, upper, lower, back, ahead, factor, factor_grad, kept, threshold,
    HEADS: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HAS_DROPOUT: tl.constexpr, LISTS: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dq and delta of the tiles of documents with a length in (BOUNDS[lower], BOUNDS[upper]]."""
    width: tl.constexpr = HEADS * K
    stride: tl.constexpr = 3 * width
    begin = tl.load(tiles_ptr + 4 * upper + 1) * HEADS * PARTS
    end = tl.load(tiles_ptr + 4 * lower + 1) * HEADS * PARTS
    for item in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        head, tile = item % HEADS, item // HEADS
        document, first, start, length = entry(tiles_ptr, LISTS + slots + tile // PARTS)
        first += tile % PARTS * ROWS
        statistics = tl.cast(head, tl.int64) * tokens + start
        dropout = (key_ptr, keys_ptr, words_ptr, document, head, start, tokens, threshold, HEADS)
        row = first + tl.arange(0, ROWS)
        q_ptr = qkv_ptr + start * stride + head * K
        dout = load_rows(dout_ptr + start * width + head * K, first, length, width, K, ROWS, BLOCK_K)
        out = load_rows(out_ptr + start * width + head * K, first, length, width, K, ROWS, BLOCK_K)
        delta = _delta(out, dout, kept)
        tl.store(delta_ptr + statistics + row, delta, mask=row < length)
        lse = tl.load(lse_ptr + statistics + row, mask=row < length, other=float("inf"))
        q = load_rows(q_ptr, first, length, stride, K, ROWS, BLOCK_K)
        dq = tl.zeros((ROWS, BLOCK_K), dtype=tl.float32)
        low, high = partners(first, back, ahead, length, ROWS, COLUMNS)
        # in a band every tile may have an edge, otherwise only the last has one, which is not worth a pipeline
        whole = low if BANDED else high // COLUMNS * COLUMNS
        if not BANDED:
            for column in range(low, whole, COLUMNS):
                dq = _fold_columns(
                    q, dout, lse, delta, dq, q_ptr, dropout, first, column, length,
                    back, ahead, factor, width, K, BANDED, HAS_DROPOUT, False, ROWS, COLUMNS, BLOCK_K,
                )  # fmt: skip
        for column in tl.range(whole, high, COLUMNS, num_stages=None if BANDED else 1):
            dq = _fold_columns(
                q, dout, lse, delta, dq, q_ptr, dropout, first, column, length,
                back, ahead, factor, width, K, BANDED, HAS_DROPOUT, True, ROWS, COLUMNS, BLOCK_K,
            )  # fmt: skip
        store_rows(
            dqkv_ptr + start * stride + head * K, dq * factor_grad, first, length, stride, K, ROWS, BLOCK_K
        )  # fmt: skip
