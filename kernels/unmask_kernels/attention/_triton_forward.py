"""The forward kernel: online softmax over column tiles (Dao 2023, arXiv:2307.08691), one pass for short documents.

    long documents     an item is a tile of ROWS rows and a head; column tiles of COLUMNS, running maximum and sum
    short documents    an item is a document and a head, all of it in one tile: softmax as written

One launch serves both, so that the tail of one fills with the other: each program takes its long items, then its short
ones, in the opposite order of programs. Scores are in the exp2 domain, the log-sum-exp (H, T) is saved in base 2.
Traffic per row and head: q, out, 4 bytes of statistics, and k, v once a tile, which stay in the L2 cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_tile import entry, keep_tile, load_rows, partners, store_rows, visible

__all__ = ["forward_kernel"]


@triton.jit
def _fold(
    q, out, highest, total, k_ptr, v_ptr, dropout, first, column, length,
    back, ahead, factor, stride: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr,
    HAS_DROPOUT: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of columns into the output (ROWS, BLOCK_K), maximum and sum (ROWS,) of a tile of rows."""
    k = load_rows(k_ptr, column, length, stride, K, COLUMNS, BLOCK_K)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # (ROWS, COLUMNS)
    if MASKED:
        rows = first + tl.arange(0, ROWS)[:, None]
        columns = column + tl.arange(0, COLUMNS)[None, :]
        scores = tl.where(visible(rows, columns, back, ahead, length, BANDED), scores, float("-inf"))
    new = tl.maximum(highest, tl.max(scores, axis=1) * factor)
    # a row that has seen nothing yet, which only a band allows, must not make -inf - -inf
    shift = tl.where(new == float("-inf"), 0.0, new) if BANDED else new
    weights = tl.exp2(scores * factor - shift[:, None])
    decay = tl.exp2(highest - shift)
    total = total * decay + tl.sum(weights, axis=1)
    if HAS_DROPOUT:
        keep = keep_tile(dropout, first, column, length, ROWS, COLUMNS)
        weights = tl.where(keep, weights, 0.0)
    v = load_rows(v_ptr, column, length, stride, K, COLUMNS, BLOCK_K)
    out = tl.dot(weights.to(v.dtype), v, out * decay[:, None], input_precision="ieee")
    return out, new, total


@triton.jit
def _long_tile(
    q_ptr, k_ptr, v_ptr, dropout, first, length, back, ahead, factor,
    stride: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HAS_DROPOUT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Unnormalised output, maximum and sum of one tile of rows."""
    q = load_rows(q_ptr, first, length, stride, K, ROWS, BLOCK_K)
    out = tl.zeros((ROWS, BLOCK_K), dtype=tl.float32)
    highest = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    low, high = partners(first, back, ahead, length, ROWS, COLUMNS)
    # in a band every tile may have an edge, otherwise only the last has one, which is not worth a pipeline
    whole = low if BANDED else high // COLUMNS * COLUMNS
    if not BANDED:
        for column in range(low, whole, COLUMNS):
            out, highest, total = _fold(
                q, out, highest, total, k_ptr, v_ptr, dropout, first, column, length,
                back, ahead, factor, stride, K, BANDED, HAS_DROPOUT, False, ROWS, COLUMNS, BLOCK_K,
            )  # fmt: skip
    for column in tl.range(whole, high, COLUMNS, num_stages=None if BANDED else 1):
        out, highest, total = _fold(
            q, out, highest, total, k_ptr, v_ptr, dropout, first, column, length,
            back, ahead, factor, stride, K, BANDED, HAS_DROPOUT, True, ROWS, COLUMNS, BLOCK_K,
        )  # fmt: skip
    return out, highest, total


@triton.jit
def _short_document(
    q_ptr, k_ptr, v_ptr, dropout, length, back, ahead, factor,
    stride: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HAS_DROPOUT: tl.constexpr,
    SIZE: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The same of a whole document of at most SIZE tokens."""
    q = load_rows(q_ptr, 0, length, stride, K, SIZE, BLOCK_K)
    k = load_rows(k_ptr, 0, length, stride, K, SIZE, BLOCK_K)
    v = load_rows(v_ptr, 0, length, stride, K, SIZE, BLOCK_K)
    place = tl.arange(0, SIZE)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # (SIZE, SIZE)
    seen = visible(place[:, None], place[None, :], back, ahead, length, BANDED)
    scores = tl.where(seen, scores, float("-inf"))
    highest = tl.max(scores, axis=1) * factor
    shift = tl.where(highest == float("-inf"), 0.0, highest) if BANDED else highest
    weights = tl.exp2(scores * factor - shift[:, None])
    total = tl.sum(weights, axis=1)
    if HAS_DROPOUT:
        weights = tl.where(keep_tile(dropout, 0, 0, length, SIZE, SIZE), weights, 0.0)
    return tl.dot(weights.to(v.dtype), v, input_precision="ieee"), highest, total


@triton.jit
def _store(
    out_ptr, lse_ptr, out, highest, total, first, length, restore,
    width: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # rows past the end may have seen nothing; they are not stored, but must not divide by zero
    total = tl.where(total == 0.0, 1.0, total)
    store_rows(out_ptr, out * (restore / total)[:, None], first, length, width, K, ROWS, BLOCK_K)
    row = first + tl.arange(0, ROWS)
    tl.store(lse_ptr + row, highest + tl.log2(total), mask=row < length)


_SETTINGS = ["tokens", "slots", "upper", "bound_long", "bound_short", "back", "ahead", "threshold"]


@triton.jit(do_not_specialize=_SETTINGS, do_not_specialize_on_alignment=["key_ptr"])
def forward_kernel(
    qkv_ptr, out_ptr, lse_ptr, tiles_ptr, key_ptr, keys_ptr, words_ptr,
    tokens, slots, upper, bound_long, bound_short, back, ahead, factor, restore, threshold,
    HEADS: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HAS_DROPOUT: tl.constexpr, LISTS: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SIZE: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Tiles of documents with a length in (BOUNDS[bound_long], BOUNDS[upper]], then documents up to there."""
    width: tl.constexpr = HEADS * K
    stride: tl.constexpr = 3 * width
    last = tl.num_programs(0) - 1
    begin = tl.load(tiles_ptr + 4 * upper + 1) * HEADS * PARTS
    end = tl.load(tiles_ptr + 4 * bound_long + 1) * HEADS * PARTS
    for item in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        head, tile = item % HEADS, item // HEADS
        document, first, start, length = entry(tiles_ptr, LISTS + slots + tile // PARTS)
        first += tile % PARTS * ROWS
        q_ptr = qkv_ptr + start * stride + head * K
        dropout = (key_ptr, keys_ptr, words_ptr, document, head, start, tokens, threshold, HEADS)
        out, highest, total = _long_tile(
            q_ptr, q_ptr + width, q_ptr + 2 * width, dropout, first, length,
            back, ahead, factor, stride, K, BANDED, HAS_DROPOUT, ROWS, COLUMNS, BLOCK_K,
        )  # fmt: skip
        _store(
            out_ptr + start * width + head * K, lse_ptr + tl.cast(head, tl.int64) * tokens + start,
            out, highest, total, first, length, restore, width, K, ROWS, BLOCK_K,
        )  # fmt: skip
    begin = tl.load(tiles_ptr + 4 * bound_long) * HEADS
    end = tl.load(tiles_ptr + 4 * bound_short) * HEADS
    for item in range(begin + last - tl.program_id(0), end, tl.num_programs(0)):
        head = item % HEADS
        document, first, start, length = entry(tiles_ptr, LISTS + item // HEADS)
        q_ptr = qkv_ptr + start * stride + head * K
        dropout = (key_ptr, keys_ptr, words_ptr, document, head, start, tokens, threshold, HEADS)
        out, highest, total = _short_document(
            q_ptr, q_ptr + width, q_ptr + 2 * width, dropout, length,
            back, ahead, factor, stride, K, BANDED, HAS_DROPOUT, SIZE, BLOCK_K,
        )  # fmt: skip
        _store(
            out_ptr + start * width + head * K, lse_ptr + tl.cast(head, tl.int64) * tokens + start,
            out, highest, total, first, length, restore, width, K, SIZE, BLOCK_K,
        )  # fmt: skip
