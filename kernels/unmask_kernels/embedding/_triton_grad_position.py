"""Gradients of the position and segment tables on the GPU: the kernel computes dh again and adds it up by position.

The kernel visits tokens position by position. At a position come the documents that reach it, from the longest to the
shortest (`Documents.order`). `tokens_before` (P + 1,) counts the tokens at smaller positions. Each program has a span
of this order, not of the positions, so all programs have work even if documents are short:

    tokens_before   0               4         7     9
    document        a  b  c  d   |  a  b  d  | a  b  |
    position        0  0  0  0   |  1  1  1  | 2  2  |
    spans           | program 0 | program 1 | program 2 |

With dh = rstd dx_hat - slope h - offset (see `_triton_grad_word`), an element costs two multiplications and additions
for each token. Factors that all tokens of a position and segment share are applied once, to the sums:

    sum of dh = weight / (1 - p) * sum of rstd keep dy
                - sum of slope word - (position + segment) * sum of slope - sum of offset

A program keeps its sums by segment over all its positions. One program computes each sum, in a fixed order: no atomics.
Traffic of a token: its dy again, about 150 bytes of scalars and bitmask, and its word's row if the L2 cache lacks it.
"""

# mypy: disable-error-code="assignment"
# (tuples of a kernel grow part by part)

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_row import kept, load_bitmask

__all__ = ["grad_position_kernel"]

_COUNTED = tl.constexpr(256)  # entries of tokens_before that are read at a time


@triton.jit
def _load_token(ids_ptr, segments_ptr, rstd_ptr, slope_ptr, offset_ptr, token):
    word = tl.load(ids_ptr + token).to(tl.int32)
    segment = word * 0
    if segments_ptr is not None:
        segment = tl.load(segments_ptr + token).to(tl.int32)
    return word, segment, tl.load(rstd_ptr + token), tl.load(slope_ptr + token), tl.load(offset_ptr + token)


@triton.jit(do_not_specialize=["rows", "span", "positions"])
def grad_position_kernel(
    dy_ptr, ids_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, weight_ptr, rstd_ptr, slope_ptr, offset_ptr,
    bitmask_ptr, starts_ptr, tokens_before_ptr, dposition_ptr, partial_ptr, segment_sums_ptr,
    rows, span, positions, scale,
    COLS: tl.constexpr, SEGMENTS: tl.constexpr, TILE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Compute dposition (positions, COLS) and the sums of each program, all fp32.

    Reads dy (rows, COLS); ids, segments (rows,); word (V, COLS), position (positions, COLS), segment (N, COLS), weight
    (COLS,), rstd, slope, offset (rows,), all fp32; the bitmask of `row_layout`, None without dropout; starts (S,)
    int32, the first tokens of the documents, from the longest to the shortest; tokens_before (positions + 1,) int32.
    segments may be None; SEGMENTS is then 1.
    Writes partial (programs, 2, COLS): the sums of a position that began in the span before, and of one that goes on
    in the next span; segment_sums (programs, SEGMENTS, COLS).
    """
    PARTS: tl.constexpr = TILE.parts
    BLOCK: tl.constexpr = TILE.block
    program = tl.program_id(0).to(tl.int64)
    first = tl.program_id(0) * span
    end = tl.minimum(first + span, rows)
    # if the sums of a whole row do not fit in registers, the second axis of the grid splits the row
    first_part = tl.program_id(1) * PARTS if SPLIT > 1 else 0
    first_position, end_position = -1, 0
    for start in range(0, positions, _COUNTED):
        position = start + tl.arange(0, _COUNTED)
        before = tl.load(tokens_before_ptr + position, mask=position < positions, other=2147483647)
        first_position += tl.sum((before <= first).to(tl.int32))
        end_position += tl.sum((before < end).to(tl.int32))
    no_sums, no_scalars = (), ()
    for _ in tl.static_range(PARTS * SEGMENTS):
        no_sums += (tl.zeros((BLOCK,), dtype=tl.float32),)
    for _ in tl.static_range(SEGMENTS):
        no_scalars += (0.0,)
    segment_sums = no_sums
    for position in range(first_position, end_position):
        before = tl.load(tokens_before_ptr + position)
        documents = tl.load(tokens_before_ptr + position + 1) - before  # those that reach this position
        low = tl.maximum(first - before, 0)
        high = tl.minimum(end - before, documents)
        # by segment: of rstd keep dy, of slope word, of slope, of offset
        sum_dy, sum_word, sum_slope, sum_offset = no_sums, no_sums, no_scalars, no_scalars
        # tokens are loaded two iterations ahead and their values one ahead, so loads do not wait for one another
        token = tl.load(starts_ptr + low).to(tl.int64) + position
        token1 = tl.load(starts_ptr + tl.minimum(low + 1, high - 1)).to(tl.int64) + position
        word, segment, rstd, slope, offset = _load_token(
            ids_ptr, segments_ptr, rstd_ptr, slope_ptr, offset_ptr, token
        )  # fmt: skip
        for slot in range(low, high):
            token2 = tl.load(starts_ptr + tl.minimum(slot + 2, high - 1)).to(tl.int64) + position
            word1, segment1, rstd1, slope1, offset1 = _load_token(
                ids_ptr, segments_ptr, rstd_ptr, slope_ptr, offset_ptr, token1
            )  # fmt: skip
            if bitmask_ptr is not None:
                bits = load_bitmask(bitmask_ptr, token, BLOCK) >> (first_part * 8)
            new_sum_dy, new_sum_word, new_sum_slope, new_sum_offset = (), (), (), ()
            for s in tl.static_range(SEGMENTS):
                new_sum_slope += (sum_slope[s] + tl.where(segment == s, slope, 0.0),)
                new_sum_offset += (sum_offset[s] + tl.where(segment == s, offset, 0.0),)
            for part in tl.static_range(PARTS):
                col = (first_part + part) * BLOCK + tl.arange(0, BLOCK)
                dy = tl.load(dy_ptr + token * COLS + col, mask=col < COLS, other=0.0).to(tl.float32)
                if bitmask_ptr is not None:
                    dy = tl.where(kept(bits, part, BLOCK), dy, 0.0)
                row = tl.load(word_ptr + word.to(tl.int64) * COLS + col, mask=col < COLS, other=0.0)
                for s in tl.static_range(SEGMENTS):
                    new_sum_dy += (sum_dy[part * SEGMENTS + s] + dy * tl.where(segment == s, rstd, 0.0),)
                    new_sum_word += (sum_word[part * SEGMENTS + s] + row * tl.where(segment == s, slope, 0.0),)
            sum_dy, sum_word, sum_slope, sum_offset = new_sum_dy, new_sum_word, new_sum_slope, new_sum_offset
            token, token1 = token1, token2
            word, segment, rstd, slope, offset = word1, segment1, rstd1, slope1, offset1
        sum_ptr = dposition_ptr + tl.cast(position, tl.int64) * COLS
        if low > 0:
            sum_ptr = partial_ptr + program * 2 * COLS
        elif high < documents:
            sum_ptr = partial_ptr + (program * 2 + 1) * COLS
        new_segment_sums = ()
        for part in tl.static_range(PARTS):
            col = (first_part + part) * BLOCK + tl.arange(0, BLOCK)
            weight = tl.load(weight_ptr + col, mask=col < COLS, other=0.0) * scale
            position_row = tl.load(position_ptr + tl.cast(position, tl.int64) * COLS + col, mask=col < COLS, other=0.0)
            total = tl.zeros((BLOCK,), dtype=tl.float32)
            for s in tl.static_range(SEGMENTS):
                row = position_row + tl.load(segment_ptr + s * COLS + col, mask=col < COLS, other=0.0)
                dh = (
                    sum_dy[part * SEGMENTS + s] * weight
                    - sum_word[part * SEGMENTS + s]
                    - row * sum_slope[s]
                    - sum_offset[s]
                )
                total += dh
                new_segment_sums += (segment_sums[part * SEGMENTS + s] + dh,)
            tl.store(sum_ptr + col, total, mask=col < COLS)
        segment_sums = new_segment_sums
    for part in tl.static_range(PARTS):
        col = (first_part + part) * BLOCK + tl.arange(0, BLOCK)
        for s in tl.static_range(SEGMENTS):
            sum_ptr = segment_sums_ptr + (program * SEGMENTS + s) * COLS
            tl.store(sum_ptr + col, segment_sums[part * SEGMENTS + s], mask=col < COLS)
