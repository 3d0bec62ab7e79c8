"""The backward kernels for documents longer than a tile, in two forms, both without atomics.

    two passes   grad_query_kernel        a tile of rows and a head: dq, and delta = rowsum(dout * out) for the others
                 grad_key_value_kernel    a tile of columns and a head: dk and dv; scores are formed again: 7 products
    owner        owner_kernel             a document and a head: 5 products, dq added up in fp32 in a scratch of its own

A tile of columns holds its scores transposed, (COLUMNS, ROWS), so that weights and dscores go from registers into the
products for dv and dk; the owner's product for dq, transposed too, has dscores from shared memory. Columns past the
end of a document are copies of its last one: their weights are finite, nothing of theirs is stored, and where dq is
summed up k has zeros for them, so that no element needs a mask. The scratch belongs to a program, not to a document,
so it stays in the L2 cache; a row tile's first visit overwrites it and its last one writes dq, so it is neither
cleared nor converted, and it lies as threads hold it. 1 / (1 - p) is linear all the way and is applied to the results:
delta is taken times 1 - p instead. With D = weights * keep:

    dv = D^T dout / (1 - p)      dscores = weights * (keep * dout v^T - delta)      dq, dk = scale / (1 - p) dscores ...
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_tile import entry, keep_tile, load_clamped, load_rows, partners, store_rows, visible

__all__ = ["grad_key_value_kernel", "grad_query_kernel", "owner_kernel"]

_SETTINGS = ["tokens", "slots", "upper", "lower", "back", "ahead", "threshold", "scratch_rows"]


@triton.jit
def _delta(out, dout, kept):
    return tl.sum(out.to(tl.float32) * dout.to(tl.float32), axis=1) * kept


@triton.jit
def _as_held(tile, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """(ROWS * BLOCK_K,) of a tile (BLOCK_K, ROWS): what a thread of a tensor core's result holds, four by four.

    Loads and stores in this order need no exchange between threads; in any other layout they are as right.
    """
    tile = tl.reshape(tile, (BLOCK_K // 16, 2, 8, 2, ROWS // 16, 4, 2))
    return tl.reshape(tl.permute(tile, (4, 3, 0, 2, 5, 1, 6)), (ROWS * BLOCK_K,))


@triton.jit
def _from_held(values, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """The inverse."""
    tile = tl.reshape(values, (ROWS // 16, 2, BLOCK_K // 16, 8, 4, 2, 2))
    return tl.reshape(tl.permute(tile, (2, 5, 3, 1, 0, 4, 6)), (BLOCK_K, ROWS))


@triton.jit
def _add_to_dq(
    dscores, k, dq_ptr, scratch_ptr, first, start, length, back, ahead, factor_grad,
    stride: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """What the columns from first on add to dq of the rows from start on, in the scratch between visits."""
    low, high = partners(start, back, ahead, length, ROWS, COLUMNS)
    held = scratch_ptr + start * BLOCK_K + tl.arange(0, ROWS * BLOCK_K)
    # nothing is read on the first visit
    before = tl.load(held, mask=tl.zeros((ROWS * BLOCK_K,), tl.int32) < first - low, other=0.0)
    dq = tl.dot(tl.trans(k), dscores, _from_held(before, ROWS, BLOCK_K), input_precision="ieee")  # (BLOCK_K, ROWS)
    if high > first + COLUMNS:
        tl.store(held, _as_held(dq, ROWS, BLOCK_K))
    else:
        store_rows(dq_ptr, tl.trans(dq) * factor_grad, start, length, stride, K, ROWS, BLOCK_K)


@triton.jit
def _fold_rows(
    k, v, k_inside, dk, dv, q_ptr, dq_ptr, dout_ptr, lse_ptr, delta_ptr, scratch_ptr, dropout, first, start, length,
    back, ahead, factor, factor_grad,
    width: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HAS_DROPOUT: tl.constexpr, OWNER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows from start on into dk, dv (COLUMNS, BLOCK_K) of the columns from first on; the owner also adds to dq."""
    row = start + tl.arange(0, ROWS)
    q = load_rows(q_ptr, start, length, 3 * width, K, ROWS, BLOCK_K)
    dout = load_rows(dout_ptr, start, length, width, K, ROWS, BLOCK_K)
    # zeros as q and dout are for rows past the end: their weights of 1 add nothing
    lse = tl.load(lse_ptr + row, mask=row < length, other=0.0)
    delta = tl.load(delta_ptr + row, mask=row < length, other=0.0)
    scores = tl.dot(k, tl.trans(q), input_precision="ieee")  # (COLUMNS, ROWS)
    weights = tl.exp2(scores * factor - lse[None, :])
    if BANDED:
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
        _add_to_dq(
            dscores, k_inside, dq_ptr, scratch_ptr, first, start, length, back, ahead, factor_grad,
            3 * width, K, ROWS, COLUMNS, BLOCK_K,
        )  # fmt: skip
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
    k = load_clamped(q_ptr + width, first, length, stride, K, COLUMNS, BLOCK_K)
    v = load_clamped(q_ptr + 2 * width, first, length, stride, K, COLUMNS, BLOCK_K)
    k_inside = k
    # in a band weights are masked anyway
    if OWNER and not BANDED:
        k_inside = tl.where((first + tl.arange(0, COLUMNS) < length)[:, None], k, 0.0)
    dk = tl.zeros((COLUMNS, BLOCK_K), dtype=tl.float32)
    dv = tl.zeros((COLUMNS, BLOCK_K), dtype=tl.float32)
    low, high = partners(first, ahead, back, length, COLUMNS, ROWS)
    for start in range(low, high, ROWS):
        dk, dv = _fold_rows(
            k, v, k_inside, dk, dv, q_ptr, dq_ptr, dout_ptr, lse_ptr, delta_ptr, scratch_ptr, dropout,
            first, start, length, back, ahead, factor, factor_grad,
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
        lse = tl.load(lse_ptr + statistics + row, mask=row < length, other=0.0)
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
