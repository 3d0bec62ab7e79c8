"""The forward kernel: online softmax over tiles of columns, and plain softmax for documents of one tile.

For a tile of rows, tiles of columns are visited one after the other (Dao 2023, arXiv:2307.08691), the last one first,
which the end of the document may cut. m is the running maximum of a row of scores, l the sum of its exponentials, acc
the output before it is divided by l:

    S = q k^T                      m' = max(m, scale max(S))       alpha = exp(m - m')
    P = exp(scale S - m')          l' = alpha l + sum(P)           acc' = alpha acc + (P keep) v

and in the end out = acc / (l (1 - p)) and lse = m + log(l). Exponentials are powers of 2: scale_log2 is scale *
log2(e), and lse is saved in base 2.

    documents over SHORT_UP_TO tokens    an item is a tile of rows and a head
    shorter documents                    an item is a document and a head; one tile holds all its scores

One launch serves both kinds. Programs take the long items one by one, and then share the short ones; those that end the
long work first begin. Traffic for each row and head: q, out and 4 bytes of lse; and k, v once for each tile of rows,
which stay in the L2 cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .._triton.fences import fenced_jit
from ._triton_documents import load_item, load_rows, next_number, store_rows, visible, visible_range
from ._triton_dropout import Dropout, keep_tile

__all__ = ["forward_kernel"]


@triton.jit
def _add_columns(
    q, acc, m, l, q_ptr, dropout, item, first, column, left, right, scale_log2, TILE: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """One step of the online softmax: the columns from `column` on, for the rows from `first` on.

    q, acc (rows, block_k); m, l (rows,). MASKED where some of the columns may be hidden or past the end.
    """
    width: tl.constexpr = TILE.heads * TILE.head_dim
    k = load_rows(q_ptr + width, column, item.length, 3 * width, TILE.columns, TILE)
    S = tl.dot(q, tl.trans(k), input_precision="ieee")  # (rows, columns)
    if MASKED:
        rows = first + tl.arange(0, TILE.rows)[:, None]
        columns = column + tl.arange(0, TILE.columns)[None, :]
        S = tl.where(visible(rows, columns, left, right, item.length, TILE.banded), S, float("-inf"))
    m_new = tl.maximum(m, tl.max(S, axis=1) * scale_log2)
    # a row that has seen nothing yet, which only a band allows, must not form -inf - -inf
    shift = tl.where(m_new == float("-inf"), 0.0, m_new) if TILE.banded else m_new
    P = tl.exp2(S * scale_log2 - shift[:, None])
    alpha = tl.exp2(m - shift)
    l = l * alpha + tl.sum(P, axis=1)
    if dropout.key_ptr is not None:
        P = tl.where(keep_tile(dropout, item, first, column, TILE.rows, TILE.columns), P, 0.0)
    v = load_rows(q_ptr + 2 * width, column, item.length, 3 * width, TILE.columns, TILE)
    acc = tl.dot(P.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
    return acc, m_new, l


@triton.jit
def _attend_rows(q, q_ptr, dropout, item, first, left, right, scale_log2, TILE: tl.constexpr):
    """acc (rows, block_k), m and l (rows,) of the rows from `first` on, whose q is (rows, block_k)."""
    ROWS: tl.constexpr = TILE.rows
    BLOCK_K: tl.constexpr = TILE.block_k
    acc = tl.zeros((ROWS, BLOCK_K), dtype=tl.float32)
    m = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    l = tl.zeros((ROWS,), dtype=tl.float32)
    low, high = visible_range(first, left, right, item.length, TILE.rows, TILE.columns)
    # In a band every tile may have hidden columns. Otherwise only the last tile has a mask. It comes first, so its k is
    # fetched together with q; a pipeline of its own is not worth it.
    whole = low if TILE.banded else high // TILE.columns * TILE.columns
    for column in tl.range(whole, high, TILE.columns, num_stages=None if TILE.banded else 1):
        acc, m, l = _add_columns(
            q, acc, m, l, q_ptr, dropout, item, first, column, left, right, scale_log2, TILE, True
        )  # fmt: skip
    if not TILE.banded:
        for column in range(low, whole, TILE.columns):
            acc, m, l = _add_columns(
                q, acc, m, l, q_ptr, dropout, item, first, column, left, right, scale_log2, TILE, False
            )  # fmt: skip
    return acc, m, l


@triton.jit
def _attend_short_document(q_ptr, dropout, item, left, right, scale_log2, TILE: tl.constexpr):
    """The same for a whole document of at most TILE.rows tokens."""
    width: tl.constexpr = TILE.heads * TILE.head_dim
    q = load_rows(q_ptr, 0, item.length, 3 * width, TILE.rows, TILE)
    k = load_rows(q_ptr + width, 0, item.length, 3 * width, TILE.rows, TILE)
    v = load_rows(q_ptr + 2 * width, 0, item.length, 3 * width, TILE.rows, TILE)
    position = tl.arange(0, TILE.rows)
    S = tl.dot(q, tl.trans(k), input_precision="ieee")  # (rows, rows)
    seen = visible(position[:, None], position[None, :], left, right, item.length, TILE.banded)
    S = tl.where(seen, S, float("-inf"))
    m = tl.max(S, axis=1) * scale_log2
    shift = tl.where(m == float("-inf"), 0.0, m) if TILE.banded else m
    P = tl.exp2(S * scale_log2 - shift[:, None])
    l = tl.sum(P, axis=1)
    if dropout.key_ptr is not None:
        P = tl.where(keep_tile(dropout, item, 0, 0, TILE.rows, TILE.rows), P, 0.0)
    return tl.dot(P.to(v.dtype), v, input_precision="ieee"), m, l


@triton.jit
def _store(out_ptr, lse_ptr, acc, m, l, item, first, tokens, inv_keep, TILE: tl.constexpr):
    """Write out and lse of the rows from `first` on."""
    width: tl.constexpr = TILE.heads * TILE.head_dim
    # rows past the end may have seen nothing: they are not stored, but must not divide by zero
    l = tl.where(l == 0.0, 1.0, l)
    acc = acc * (inv_keep / l)[:, None]
    out_ptr += item.start * width + item.head * TILE.head_dim
    store_rows(out_ptr, acc, first, item.length, width, TILE.rows, TILE)
    row = first + tl.arange(0, TILE.rows)
    lse_ptr += tl.cast(item.head, tl.int64) * tokens + item.start
    tl.store(lse_ptr + row, m + tl.log2(l), mask=row < item.length)


_NOT_COMPILED_IN = ["tokens", "slots", "upper", "lower", "lower_short", "left", "right", "threshold"]


@fenced_jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["key_ptr", "tickets_ptr"])
def forward_kernel(
    qkv_ptr, out_ptr, lse_ptr, tiles_ptr, key_ptr, keys_ptr, bitmask_ptr, tickets_ptr,
    tokens, slots, upper, lower, lower_short, left, right, scale_log2, inv_keep, threshold,
    HEAD_LINES: tl.constexpr, PARTS: tl.constexpr, TILE: tl.constexpr, SHORT_TILE: tl.constexpr,
):  # fmt: skip
    """out and lse of the documents with a length in (BOUNDS[lower_short], BOUNDS[upper]].

    Documents over BOUNDS[lower] tokens are taken tile by tile, the others whole: they fit SHORT_TILE.

    Args:
        qkv_ptr, out_ptr, lse_ptr: (T, 3, H, K); (T, H, K); fp32 (H, T).
        tiles_ptr: `Documents.tiles`, int32 (HEAD_LINES + slots + ..., 4).
        key_ptr, keys_ptr, bitmask_ptr: int64 scalar; int64 (slots,); int32 (W, H, T), see `_triton_dropout`. All may
            be None.
        tickets_ptr: see `next_number`.
        tokens, slots: T; the documents that the lists have room for.
        upper, lower, lower_short: indices of `BOUNDS`.
        left, right: tokens that a token sees on either side.
        scale_log2, inv_keep, threshold: scale * log2(e); 1 / (1 - p); `philox.threshold(p)`.
        PARTS: tiles of TILE.rows rows in a tile of the work list.
    """
    width: tl.constexpr = TILE.heads * TILE.head_dim
    dropout = Dropout(key_ptr, keys_ptr, bitmask_ptr, threshold, tokens, TILE.heads)
    first_line = HEAD_LINES + slots + tl.load(tiles_ptr + 4 * upper + 1)
    items = (HEAD_LINES + slots + tl.load(tiles_ptr + 4 * lower + 1) - first_line) * TILE.heads * PARTS
    index = tl.program_id(0)
    while index < items:
        part = index // TILE.heads
        item = load_item(tiles_ptr, first_line + part // PARTS, index % TILE.heads)
        first = item.first_row + part % PARTS * TILE.rows
        q_ptr = qkv_ptr + item.start * 3 * width + item.head * TILE.head_dim
        q = load_rows(q_ptr, first, item.length, 3 * width, TILE.rows, TILE)
        acc, m, l = _attend_rows(q, q_ptr, dropout, item, first, left, right, scale_log2, TILE)
        _store(out_ptr, lse_ptr, acc, m, l, item, first, tokens, inv_keep, TILE)
        index = next_number(tickets_ptr)
    # Every program has got one number past the end, the earlier the smaller. So the first ones that are done begin.
    begin = tl.load(tiles_ptr + 4 * lower) * TILE.heads
    end = tl.load(tiles_ptr + 4 * lower_short) * TILE.heads
    for short in range(begin + index - items, end, tl.num_programs(0)):
        item = load_item(tiles_ptr, HEAD_LINES + short // TILE.heads, short % TILE.heads)
        q_ptr = qkv_ptr + item.start * 3 * width + item.head * TILE.head_dim
        acc, m, l = _attend_short_document(q_ptr, dropout, item, left, right, scale_log2, SHORT_TILE)
        _store(out_ptr, lse_ptr, acc, m, l, item, item.first_row, tokens, inv_keep, SHORT_TILE)
