"""Triton embedding, forward: whole rows in registers, gathered, added, normalised and dropped in one pass.

A row of D elements moves 4 D bytes of the word table, less where a frequent word lies in the L2 cache, and s D of y for
elements of s bytes; the tables of places and segments stay in that cache. Dropout adds D / 8 bytes, for the backward.
"""

# mypy: disable-error-code="assignment"
# (tuples of a kernel grow part by part)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels._triton.launch import OPTIONS, device_guard

from . import parts
from ._triton_bits import draw_bits, store_bits
from .arguments import Arguments

__all__ = ["forward", "gather_sum"]


@triton.jit
def gather_sum(word_ptr, position_ptr, segment_ptr, word, place, segment, col, COLS: tl.constexpr):
    """h at these columns of the rows whose first elements in the tables are given, 0 beyond the last column."""
    h = tl.load(word_ptr + word + col, mask=col < COLS, other=0.0)
    h += tl.load(position_ptr + place + col, mask=col < COLS, other=0.0)
    return h + tl.load(segment_ptr + segment + col, mask=col < COLS, other=0.0)


@triton.jit(do_not_specialize=["rows", "threshold"], do_not_specialize_on_alignment=["key_ptr"])
def _forward_kernel(
    ids_ptr, places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, weight_ptr, bias_ptr, key_ptr, row_keys_ptr,
    y_ptr, mean_ptr, rstd_ptr, bits_ptr,
    rows, eps, scale, threshold,
    COLS: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_DROPOUT: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WORDS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = at < rows
    # indices are widened before they are multiplied
    word = tl.load(ids_ptr + at, mask=in_rows, other=0).to(tl.int64)[:, None] * COLS
    place = tl.load(places_ptr + at, mask=in_rows, other=0)[:, None] * COLS
    segment = tl.zeros((ROWS, 1), dtype=tl.int64)
    if HAS_SEGMENTS:
        segment = tl.load(segments_ptr + at, mask=in_rows, other=0).to(tl.int64)[:, None] * COLS
    h = ()
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        col = part * BLOCK + tl.arange(0, BLOCK)[None, :]
        h += (gather_sum(word_ptr, position_ptr, segment_ptr, word, place, segment, col, COLS),)
        total += h[part]
    # Two passes over registers: the variance of centred values keeps its digits when the mean is large.
    mean = tl.sum(total, axis=1) / COLS  # (ROWS,)
    squares = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        in_cols = part * BLOCK + tl.arange(0, BLOCK) < COLS
        centred = tl.where(in_cols[None, :], h[part] - mean[:, None], 0.0)
        squares += centred * centred
    rstd = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(squares, axis=1) / COLS + eps))
    if HAS_DROPOUT:
        key = tl.load(key_ptr)
        row_keys = tl.load(row_keys_ptr + at, mask=in_rows, other=0)
    for part in tl.static_range(PARTS):
        # two-dimensional, so that a thread has the columns here that it has in h
        col = part * BLOCK + tl.arange(0, BLOCK)[None, :]
        weight = tl.load(weight_ptr + col, mask=col < COLS, other=0.0)  # (1, BLOCK)
        bias = tl.load(bias_ptr + col, mask=col < COLS, other=0.0)
        y = (h[part] - mean[:, None]) * rstd[:, None] * weight + bias
        if HAS_DROPOUT:
            keep = draw_bits(bits_ptr, key, row_keys, threshold, at, in_rows, part, ROWS, BLOCK, WORDS, BYTES)
            y = tl.where(keep, y * scale, 0.0)
        mask = in_rows[:, None] & (col < COLS)
        tl.store(y_ptr + at[:, None] * COLS + col, y.to(y_ptr.dtype.element_ty), mask=mask)
    if HAS_DROPOUT:
        # bytes of words that have more of them than a row has parts: read, never used
        for part in tl.static_range(PARTS, (WORDS * BYTES * 8 + BLOCK - 1) // BLOCK):
            zeros = tl.zeros((ROWS, BLOCK // 8), dtype=tl.int32)
            store_bits(bits_ptr, zeros, at, in_rows, part, BLOCK // 8, WORDS, BYTES)
    tl.store(mean_ptr + at, mean, mask=in_rows)
    tl.store(rstd_ptr + at, rstd, mask=in_rows)


def forward(
    ids: Tensor, word: Tensor, position: Tensor, segment: Tensor, weight: Tensor, bias: Tensor, arguments: Arguments
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (T, D), mean (T,), rstd (T,), and the bits that dropout keeps as in `parts`, empty without dropout."""
    segments, p, dtype = arguments.segments, arguments.p, arguments.dtype
    rows, cols = len(ids), word.shape[1]
    y = word.new_empty((rows, cols), dtype=dtype)
    mean = word.new_empty(rows)
    rstd = torch.empty_like(mean)
    words, kept_dtype = parts.keep_shape(cols, dtype.itemsize)
    keep = word.new_empty((rows, words) if p > 0.0 else (0,), dtype=kept_dtype)
    tile = parts.of_forward(cols)
    if rows > 0:
        with device_guard(word):
            _forward_kernel[(triton.cdiv(rows, tile.rows),)](
                ids_ptr=ids.contiguous(),
                places_ptr=arguments.places,
                segments_ptr=None if segments is None else segments.contiguous(),
                word_ptr=word.contiguous(),
                position_ptr=position.contiguous(),
                segment_ptr=segment.contiguous(),
                weight_ptr=weight.contiguous(),
                bias_ptr=bias.contiguous(),
                key_ptr=arguments.key,
                row_keys_ptr=arguments.row_keys,
                y_ptr=y,
                mean_ptr=mean,
                rstd_ptr=rstd,
                bits_ptr=keep.view(torch.uint8),
                rows=rows,
                eps=arguments.eps,
                scale=1.0 / (1.0 - p),
                threshold=philox.threshold(p),
                COLS=cols,
                HAS_SEGMENTS=segments is not None,
                HAS_DROPOUT=p > 0.0,
                PARTS=tile.parts,
                ROWS=tile.rows,
                BLOCK=tile.block,
                WORDS=words,
                BYTES=kept_dtype.itemsize,
                num_warps=tile.warps,
                **OPTIONS,
            )
    return y, mean, rstd, keep
