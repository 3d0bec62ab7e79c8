"""The forward kernel: online softmax over tiles of columns, and plain softmax for documents of one tile.

For a tile of rows, tiles of columns are visited from left to right (Dao 2023, arXiv:2307.08691). m is the running
maximum of a row of scores, l the sum of its exponentials, acc the output before it is divided by l:

    S = q k^T                      m' = max(m, scale max(S))       alpha = exp(m - m')
    P = exp(scale S - m')          l' = alpha l + sum(P)           acc' = alpha acc + (P keep) v

and in the end out = acc / (l (1 - p)) and lse = m + log(l). Exponentials are powers of 2: scale_log2 is scale *
log2(e), and lse is saved in base 2.

    documents over SHORT_UP_TO tokens    an item is a tile of ROWS rows and a head
    shorter documents                    an item is a document and a head; one tile holds all its scores

One launch serves both kinds. Each program takes its long items first and its short ones last, the latter in the
opposite order of programs, so that those with the least long work begin the short work. Traffic for each row and head:
q, out and 4 bytes of lse; and k, v once for each tile of rows, which stay in the L2 cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_documents import Tile, load_item, load_rows, store_rows, visible, visible_range
from ._triton_dropout import Dropout, keep_tile

__all__ = ["forward_kernel"]


@triton.jit
def _add_columns(
    q, acc, m, l, q_ptr, dropout, item, first, column, left, right, scale_log2, tile, MASKED: tl.constexpr
):  # fmt: skip
    """One step of the online softmax: the columns from `column` on, for the rows from `first` on.

    q, acc (ROWS, BLOCK_K); m, l (ROWS,). MASKED where some of the columns may be hidden or past the end.
    """
    width: tl.constexpr = tile.HEADS * tile.K
    k = load_rows(q_ptr + width, column, item.length, 3 * width, tile.K, tile.COLUMNS, tile.BLOCK_K)
    S = tl.dot(q, tl.trans(k), input_precision="ieee")  # (ROWS, COLUMNS)
    if MASKED:
        rows = first + tl.arange(0, tile.ROWS)[:, None]
        columns = column + tl.arange(0, tile.COLUMNS)[None, :]
        S = tl.where(visible(rows, columns, left, right, item.length, tile.BANDED), S, float("-inf"))
    m_new = tl.maximum(m, tl.max(S, axis=1) * scale_log2)
    # a row that has seen nothing yet, which only a band allows, must not form -inf - -inf
    shift = tl.where(m_new == float("-inf"), 0.0, m_new) if tile.BANDED else m_new
    P = tl.exp2(S * scale_log2 - shift[:, None])
    alpha = tl.exp2(m - shift)
    l = l * alpha + tl.sum(P, axis=1)
    if dropout.key_ptr is not None:
        P = tl.where(keep_tile(dropout, item, first, column, tile.ROWS, tile.COLUMNS), P, 0.0)
    v = load_rows(q_ptr + 2 * width, column, item.length, 3 * width, tile.K, tile.COLUMNS, tile.BLOCK_K)
    acc = tl.dot(P.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
    return acc, m_new, l


@triton.jit
def _attend_rows(q_ptr, dropout, item, first, left, right, scale_log2, tile):
    """acc (ROWS, BLOCK_K), m and l (ROWS,) of the rows from `first` on."""
    stride: tl.constexpr = 3 * tile.HEADS * tile.K
    q = load_rows(q_ptr, first, item.length, stride, tile.K, tile.ROWS, tile.BLOCK_K)
    acc = tl.zeros((tile.ROWS, tile.BLOCK_K), dtype=tl.float32)
    m = tl.full((tile.ROWS,), float("-inf"), dtype=tl.float32)
    l = tl.zeros((tile.ROWS,), dtype=tl.float32)
    low, high = visible_range(first, left, right, item.length, tile.ROWS, tile.COLUMNS)
    # In a band every tile may have hidden columns. Otherwise only the last tile has a mask, and it is not worth a
    # pipeline of its own.
    whole = low if tile.BANDED else high // tile.COLUMNS * tile.COLUMNS
    if not tile.BANDED:
        for column in range(low, whole, tile.COLUMNS):
            acc, m, l = _add_columns(
                q, acc, m, l, q_ptr, dropout, item, first, column, left, right, scale_log2, tile, False
            )  # fmt: skip
    for column in tl.range(whole, high, tile.COLUMNS, num_stages=None if tile.BANDED else 1):
        acc, m, l = _add_columns(
            q, acc, m, l, q_ptr, dropout, item, first, column, left, right, scale_log2, tile, True
        )  # fmt: skip
    return acc, m, l


@triton.jit
def _attend_short_document(q_ptr, dropout, item, left, right, scale_log2, tile):
    """The same for a whole document of at most ROWS = COLUMNS tokens."""
    width: tl.constexpr = tile.HEADS * tile.K
    q = load_rows(q_ptr, 0, item.length, 3 * width, tile.K, tile.ROWS, tile.BLOCK_K)
    k = load_rows(q_ptr + width, 0, item.length, 3 * width, tile.K, tile.ROWS, tile.BLOCK_K)
    v = load_rows(q_ptr + 2 * width, 0, item.length, 3 * width, tile.K, tile.ROWS, tile.BLOCK_K)
    position = tl.arange(0, tile.ROWS)
    S = tl.dot(q, tl.trans(k), input_precision="ieee")  # (ROWS, ROWS)
    seen = visible(position[:, None], position[None, :], left, right, item.length, tile.BANDED)
    S = tl.where(seen, S, float("-inf"))
    m = tl.max(S, axis=1) * scale_log2
    shift = tl.where(m == float("-inf"), 0.0, m) if tile.BANDED else m
    P = tl.exp2(S * scale_log2 - shift[:, None])
    l = tl.sum(P, axis=1)
    if dropout.key_ptr is not None:
        P = tl.where(keep_tile(dropout, item, 0, 0, tile.ROWS, tile.ROWS), P, 0.0)
    return tl.dot(P.to(v.dtype), v, input_precision="ieee"), m, l


@triton.jit
def _store(out_ptr, lse_ptr, acc, m, l, item, first, tokens, inv_keep, tile):
    """Write out and lse of the rows from `first` on."""
    width: tl.constexpr = tile.HEADS * tile.K
    # rows past the end may have seen nothing: they are not stored, but must not divide by zero
    l = tl.where(l == 0.0, 1.0, l)
    acc = acc * (inv_keep / l)[:, None]
    out_ptr += item.start * width + item.head * tile.K
    store_rows(out_ptr, acc, first, item.length, width, tile.K, tile.ROWS, tile.BLOCK_K)
    row = first + tl.arange(0, tile.ROWS)
    lse_ptr += tl.cast(item.head, tl.int64) * tokens + item.start
    tl.store(lse_ptr + row, m + tl.log2(l), mask=row < item.length)


_NOT_COMPILED_IN = ["tokens", "slots", "upper", "lower", "lower_short", "left", "right", "threshold"]


@triton.jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["key_ptr"])
def forward_kernel(
    qkv_ptr, out_ptr, lse_ptr, tiles_ptr, key_ptr, keys_ptr, bitmask_ptr,
    tokens, slots, upper, lower, lower_short, left, right, scale_log2, inv_keep, threshold,
    HEADS: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HEAD_LINES: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SHORT: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out and lse of the documents with a length in (BOUNDS[lower_short], BOUNDS[upper]].

    Documents over BOUNDS[lower] tokens are taken tile by tile, the others whole; those have SHORT tokens at most.

    Args:
        qkv_ptr, out_ptr, lse_ptr: (T, 3, H, K); (T, H, K); fp32 (H, T).
        tiles_ptr: `Documents.tiles`, int32 (HEAD_LINES + slots + ..., 4).
        key_ptr, keys_ptr, bitmask_ptr: int64 scalar; int64 (slots,); int32 (W, H, T), see `_triton_dropout`. All may
            be None.
        tokens, slots: T; the documents that the lists have room for.
        upper, lower, lower_short: indices of `BOUNDS`.
        left, right: tokens that a token sees on either side.
        scale_log2, inv_keep, threshold: scale * log2(e); 1 / (1 - p); `philox.threshold(p)`.
        PARTS: tiles of ROWS rows in a tile of the work list.
    """
    last_program = tl.num_programs(0) - 1
    dropout = Dropout(key_ptr, keys_ptr, bitmask_ptr, threshold, tokens, HEADS)
    begin = tl.load(tiles_ptr + 4 * upper + 1) * HEADS * PARTS
    end = tl.load(tiles_ptr + 4 * lower + 1) * HEADS * PARTS
    for index in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        part = index // HEADS
        item = load_item(tiles_ptr, HEAD_LINES + slots + part // PARTS, index % HEADS)
        first = item.first_row + part % PARTS * ROWS
        q_ptr = qkv_ptr + item.start * 3 * HEADS * K + item.head * K
        acc, m, l = _attend_rows(
            q_ptr, dropout, item, first, left, right, scale_log2, Tile(ROWS, COLUMNS, HEADS, K, BLOCK_K, BANDED)
        )  # fmt: skip
        _store(
            out_ptr, lse_ptr, acc, m, l, item, first, tokens, inv_keep, Tile(ROWS, COLUMNS, HEADS, K, BLOCK_K, BANDED)
        )  # fmt: skip
    begin = tl.load(tiles_ptr + 4 * lower) * HEADS
    end = tl.load(tiles_ptr + 4 * lower_short) * HEADS
    for index in range(begin + last_program - tl.program_id(0), end, tl.num_programs(0)):
        item = load_item(tiles_ptr, HEAD_LINES + index // HEADS, index % HEADS)
        q_ptr = qkv_ptr + item.start * 3 * HEADS * K + item.head * K
        acc, m, l = _attend_short_document(
            q_ptr, dropout, item, left, right, scale_log2, Tile(SHORT, SHORT, HEADS, K, BLOCK_K, BANDED)
        )  # fmt: skip
        _store(
            out_ptr, lse_ptr, acc, m, l, item, item.first_row, tokens, inv_keep,
            Tile(SHORT, SHORT, HEADS, K, BLOCK_K, BANDED),
        )  # fmt: skip
