"""The backward of documents that fit one tile: everything is read once, and dq, dk and dv come from one set of scores.

A program takes a document and a head. Five products, no loop, no memory for partial sums; delta is the sum of a row of
weights * dweights, in registers, so neither out nor a kernel before this one is needed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_tile import entry, keep_tile, load_rows, store_rows, visible

__all__ = ["short_backward_kernel"]

_SETTINGS = ["tokens", "upper", "lower", "back", "ahead", "threshold"]


@triton.jit(do_not_specialize=_SETTINGS, do_not_specialize_on_alignment=["key_ptr"])
def short_backward_kernel(
    qkv_ptr, dout_ptr, lse_ptr, dqkv_ptr, tiles_ptr, key_ptr, keys_ptr, words_ptr,
    tokens, upper, lower, back, ahead, factor, factor_grad, restore, threshold,
    HEADS: tl.constexpr, K: tl.constexpr, BANDED: tl.constexpr, HAS_DROPOUT: tl.constexpr, LISTS: tl.constexpr,
    SIZE: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dq, dk and dv of the documents with a length in (BOUNDS[lower], BOUNDS[upper]], at most SIZE tokens."""
    width: tl.constexpr = HEADS * K
    stride: tl.constexpr = 3 * width
    row = tl.arange(0, SIZE)
    begin = tl.load(tiles_ptr + 4 * upper) * HEADS
    end = tl.load(tiles_ptr + 4 * lower) * HEADS
    for item in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        head = item % HEADS
        document, _, start, length = entry(tiles_ptr, LISTS + item // HEADS)
        q_ptr = qkv_ptr + start * stride + head * K
        dq_ptr = dqkv_ptr + start * stride + head * K
        lse_at = lse_ptr + tl.cast(head, tl.int64) * tokens + start
        q = load_rows(q_ptr, 0, length, stride, K, SIZE, BLOCK_K)
        k = load_rows(q_ptr + width, 0, length, stride, K, SIZE, BLOCK_K)
        v = load_rows(q_ptr + 2 * width, 0, length, stride, K, SIZE, BLOCK_K)
        dout = load_rows(dout_ptr + start * width + head * K, 0, length, width, K, SIZE, BLOCK_K)
        lse = tl.load(lse_at + row, mask=row < length, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # (SIZE, SIZE)
        weights = tl.exp2(scores * factor - lse[:, None])
        weights = tl.where(visible(row[:, None], row[None, :], back, ahead, length, BANDED), weights, 0.0)
        dweights = tl.dot(dout, tl.trans(v), input_precision="ieee")
        dropped = weights
        if HAS_DROPOUT:
            dropout = (key_ptr, keys_ptr, words_ptr, document, head, start, tokens, threshold, HEADS)
            keep = keep_tile(dropout, 0, 0, length, SIZE, SIZE)
            dropped = tl.where(keep, weights, 0.0)
            dweights = tl.where(keep, dweights, 0.0)
        dv = tl.dot(tl.trans(dropped.to(dout.dtype)), dout, input_precision="ieee")
        if HAS_DROPOUT:
            dv *= restore
        store_rows(dq_ptr + 2 * width, dv, 0, length, stride, K, SIZE, BLOCK_K)
        delta = tl.sum(weights * dweights, axis=1)
        dscores = (weights * (dweights - delta[:, None])).to(q.dtype)
        dk = tl.dot(tl.trans(dscores), q, input_precision="ieee")
        store_rows(dq_ptr + width, dk * factor_grad, 0, length, stride, K, SIZE, BLOCK_K)
        dq = tl.dot(dscores, k, input_precision="ieee")
        store_rows(dq_ptr, dq * factor_grad, 0, length, stride, K, SIZE, BLOCK_K)
