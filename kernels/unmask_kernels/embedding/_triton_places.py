"""Gradients of the tables of places and segments on the GPU: dh formed again, added up by place.

Tokens in the order of their places: place by place, and of each the documents that reach it, from the longest to the
shortest (`Documents.order`). `before` (P + 1,) counts the tokens of earlier places. This order is cut into chunks as
that of the words is in `_triton_words`, so that short documents, which have few places, are the work of all programs:

    before         0               4         7     9
    document       a  b  c  d   |  a  b  d  | a  b  |
    place          0  0  0  0   |  1  1  1  | 2  2  |
    chunks         | program 0 | program 1 | program 2 |

With dh = rstd g - slope h - offset an element of a token costs two multiplications and additions; what the tokens of a
place and segment have in common is done once for all of them:

    sum of dh = weight / (1 - p) * sum of rstd keep dy - sum of slope word - (position + segment) sum of slope - ...

Sums by segment are kept over all places of a program. Every sum has one owner and a fixed order: no atomics. Traffic of
a token: its dy again, some 150 bytes of numbers and bits; a word's row, where it is not in the L2 cache any more.
"""

# mypy: disable-error-code="assignment"
# (tuples of a kernel grow part by part)

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_bits import kept, load_bits

__all__ = ["places_kernel"]

_COUNTED = tl.constexpr(256)  # places whose number of tokens is read at a time


@triton.jit
def _load_token(ids_ptr, segments_ptr, rstd_ptr, slope_ptr, offset_ptr, at, HAS_SEGMENTS: tl.constexpr):
    word = tl.load(ids_ptr + at).to(tl.int32)
    segment = word * 0
    if HAS_SEGMENTS:
        segment = tl.load(segments_ptr + at).to(tl.int32)
    return word, segment, tl.load(rstd_ptr + at), tl.load(slope_ptr + at), tl.load(offset_ptr + at)


@triton.jit(do_not_specialize=["rows", "chunk", "places"])
def places_kernel(
    dy_ptr, ids_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, weight_ptr, rstd_ptr, slope_ptr, offset_ptr,
    bits_ptr, starts_ptr, before_ptr, dposition_ptr, shared_ptr, sums_ptr,
    rows, chunk, places, scale,
    COLS: tl.constexpr, SEGMENTS: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_DROPOUT: tl.constexpr,
    PARTS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """SEGMENTS is 1 without segments. Writes shared (programs, 2, D), of places, and sums (programs, SEGMENTS, D)."""
    program = tl.program_id(0).to(tl.int64)
    first = tl.program_id(0) * chunk
    end = tl.minimum(first + chunk, rows)
    # the other axis has parts of a row, where the sums of all would not fit in registers
    first_part = tl.program_id(1) * PARTS if SPLIT > 1 else 0
    first_place, end_place = -1, 0
    for start in range(0, places, _COUNTED):
        place = start + tl.arange(0, _COUNTED)
        before = tl.load(before_ptr + place, mask=place < places, other=2147483647)
        first_place += tl.sum((before <= first).to(tl.int32))
        end_place += tl.sum((before < end).to(tl.int32))
    no_sums, no_scalars = (), ()
    for _ in tl.static_range(PARTS * SEGMENTS):
        no_sums += (tl.zeros((BLOCK,), dtype=tl.float32),)
    for _ in tl.static_range(SEGMENTS):
        no_scalars += (0.0,)
    by_segment = no_sums
    for place in range(first_place, end_place):
        before = tl.load(before_ptr + place)
        reach = tl.load(before_ptr + place + 1) - before
        low = tl.maximum(first - before, 0)
        high = tl.minimum(end - before, reach)
        dys, words, slopes, offsets = no_sums, no_sums, no_scalars, no_scalars
        # rows are known two ahead and their numbers one ahead, so that loads need not wait for one another
        at = tl.load(starts_ptr + low).to(tl.int64) + place
        ahead = tl.load(starts_ptr + tl.minimum(low + 1, high - 1)).to(tl.int64) + place
        word, segment, rstd, slope, offset = _load_token(
            ids_ptr, segments_ptr, rstd_ptr, slope_ptr, offset_ptr, at, HAS_SEGMENTS
        )  # fmt: skip
        for slot in range(low, high):
            further = tl.load(starts_ptr + tl.minimum(slot + 2, high - 1)).to(tl.int64) + place
            next_word, next_segment, next_rstd, next_slope, next_offset = _load_token(
                ids_ptr, segments_ptr, rstd_ptr, slope_ptr, offset_ptr, ahead, HAS_SEGMENTS
            )  # fmt: skip
            if HAS_DROPOUT:
                bits = load_bits(bits_ptr, at, BLOCK) >> (first_part * 8)
            new_dys, new_words, new_slopes, new_offsets = (), (), (), ()
            for one in tl.static_range(SEGMENTS):
                new_slopes += (slopes[one] + tl.where(segment == one, slope, 0.0),)
                new_offsets += (offsets[one] + tl.where(segment == one, offset, 0.0),)
            for part in tl.static_range(PARTS):
                col = (first_part + part) * BLOCK + tl.arange(0, BLOCK)
                dy = tl.load(dy_ptr + at * COLS + col, mask=col < COLS, other=0.0).to(tl.float32)
                if HAS_DROPOUT:
                    dy = tl.where(kept(bits, part, BLOCK), dy, 0.0)
                of_word = tl.load(word_ptr + word.to(tl.int64) * COLS + col, mask=col < COLS, other=0.0)
                for one in tl.static_range(SEGMENTS):
                    new_dys += (dys[part * SEGMENTS + one] + dy * tl.where(segment == one, rstd, 0.0),)
                    new_words += (words[part * SEGMENTS + one] + of_word * tl.where(segment == one, slope, 0.0),)
            dys, words, slopes, offsets = new_dys, new_words, new_slopes, new_offsets
            at, ahead = ahead, further
            word, segment, rstd, slope, offset = next_word, next_segment, next_rstd, next_slope, next_offset
        row = dposition_ptr + tl.cast(place, tl.int64) * COLS
        if low > 0:
            row = shared_ptr + program * 2 * COLS
        elif high < reach:
            row = shared_ptr + (program * 2 + 1) * COLS
        new_by_segment = ()
        for part in tl.static_range(PARTS):
            col = (first_part + part) * BLOCK + tl.arange(0, BLOCK)
            weight = tl.load(weight_ptr + col, mask=col < COLS, other=0.0) * scale
            position = tl.load(position_ptr + tl.cast(place, tl.int64) * COLS + col, mask=col < COLS, other=0.0)
            total = tl.zeros((BLOCK,), dtype=tl.float32)
            for one in tl.static_range(SEGMENTS):
                of_row = position + tl.load(segment_ptr + one * COLS + col, mask=col < COLS, other=0.0)
                dh = (
                    dys[part * SEGMENTS + one] * weight
                    - words[part * SEGMENTS + one]
                    - of_row * slopes[one]
                    - offsets[one]
                )
                total += dh
                new_by_segment += (by_segment[part * SEGMENTS + one] + dh,)
            tl.store(row + col, total, mask=col < COLS)
        by_segment = new_by_segment
    for part in tl.static_range(PARTS):
        col = (first_part + part) * BLOCK + tl.arange(0, BLOCK)
        for one in tl.static_range(SEGMENTS):
            tl.store(
                sums_ptr + (program * SEGMENTS + one) * COLS + col, by_segment[part * SEGMENTS + one], mask=col < COLS
            )
