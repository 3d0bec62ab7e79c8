"""Gradients of the word table, weight and bias on the GPU: one pass over the tokens in the order of their ids.

    sorted ids  | 7 7 7 | 9 | 103 103 103 103 103 103 103 103 103 ... | 2050 |         a run: the tokens of one word
    chunks             | program 0   | program 1   | program 2   |

A program walks its chunk a row at a time: it reads dy and the three rows of h, forms dh in registers and adds it to the
sum of the run. At the end of a run it writes the row of the word, and where the run begins and ends. A run that several
chunks share leaves a sum in each of them, which `_triton_rest` adds up. So dh is never written, a row of the word table
is fetched once a run, and a word that is an eighth of all tokens, as [MASK] is in training, is the work of an eighth of
the programs. There are as many chunks as the GPU runs at once.

    dh = rstd (g - <g>) - rstd n <g n> = rstd g - slope h - offset

`_triton_places` forms dh again from slope and offset, which are kept for it. Every sum has one owner and a fixed order:
no atomics. Traffic of a token: its dy, 8 bytes of slope and offset, some 60 of indices; of a word, its row twice.
"""

# mypy: disable-error-code="assignment"
# (tuples of a kernel grow part by part)

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_bits import kept, load_bits
from ._triton_forward import gather_sum

__all__ = ["words_kernel"]


@triton.jit
def _load_row(places_ptr, segments_ptr, mean_ptr, rstd_ptr, at, COLS: tl.constexpr, HAS_SEGMENTS: tl.constexpr):
    # first elements of the rows of places and segments, mean and rstd
    place = tl.load(places_ptr + at) * COLS
    segment = place * 0
    if HAS_SEGMENTS:
        segment = tl.load(segments_ptr + at).to(tl.int64) * COLS
    return place, segment, tl.load(mean_ptr + at), tl.load(rstd_ptr + at)


@triton.jit
def _store_row(row_ptr, total, offset, PARTS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr):
    for part in tl.static_range(PARTS):
        col = part * BLOCK + tl.arange(0, BLOCK)
        tl.store(row_ptr + col, total[part] - offset, mask=col < COLS)


@triton.jit(do_not_specialize=["rows", "chunk"])
def words_kernel(
    dy_ptr, sorted_ptr, order_ptr, places_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, weight_ptr,
    mean_ptr, rstd_ptr, bits_ptr, slope_ptr, offset_ptr, dword_ptr, runs_ptr, shared_ptr, sums_ptr,
    rows, chunk, scale,
    COLS: tl.constexpr, LEAST: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_DROPOUT: tl.constexpr,
    PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sorted ids count from LEAST. Writes runs (V, 2), and (programs, 2, D): shared sums of runs; of dweight, dbias."""
    program = tl.program_id(0).to(tl.int64)
    first = tl.program_id(0) * chunk
    end = tl.minimum(first + chunk, rows)
    weight, zeros = (), ()
    for part in tl.static_range(PARTS):
        col = part * BLOCK + tl.arange(0, BLOCK)
        weight += (tl.load(weight_ptr + col, mask=col < COLS, other=0.0),)
        zeros += (tl.zeros((BLOCK,), dtype=tl.float32),)
    dweight, dbias, total = zeros, zeros, zeros
    total_offset = 0.0
    # two sums: of the run that an earlier chunk began, and of the one that begins here and goes on
    shared = shared_ptr + program * 2 * COLS
    word = tl.load(sorted_ptr + first).to(tl.int32) - LEAST
    before = tl.load(sorted_ptr + tl.maximum(first - 1, 0)).to(tl.int32) - LEAST
    begun_before = (first > 0) & (word == before)
    begin = first
    # rows are known two ahead and their numbers one ahead, so that loads need not wait for one another
    at = tl.load(order_ptr + first)
    ahead = tl.load(order_ptr + tl.minimum(first + 1, rows - 1))
    place, segment, mean, rstd = _load_row(places_ptr, segments_ptr, mean_ptr, rstd_ptr, at, COLS, HAS_SEGMENTS)
    for slot in range(first, end):
        further = tl.load(order_ptr + tl.minimum(slot + 2, rows - 1))
        next_place, next_segment, next_mean, next_rstd = _load_row(
            places_ptr, segments_ptr, mean_ptr, rstd_ptr, ahead, COLS, HAS_SEGMENTS
        )  # fmt: skip
        following = tl.load(sorted_ptr + tl.minimum(slot + 1, rows - 1)).to(tl.int32) - LEAST
        if HAS_DROPOUT:
            bits = load_bits(bits_ptr, at, BLOCK)
        normed, scaled, new_dweight, new_dbias = (), (), (), ()
        level = tl.zeros((BLOCK,), dtype=tl.float32)
        along = tl.zeros((BLOCK,), dtype=tl.float32)
        for part in tl.static_range(PARTS):
            col = part * BLOCK + tl.arange(0, BLOCK)
            dy = tl.load(dy_ptr + at * COLS + col, mask=col < COLS, other=0.0).to(tl.float32)
            if HAS_DROPOUT:
                dy = tl.where(kept(bits, part, BLOCK), dy, 0.0)
            h = gather_sum(
                word_ptr, position_ptr, segment_ptr, word.to(tl.int64) * COLS, place, segment, col, COLS
            )  # fmt: skip
            normed += (h * rstd - mean * rstd,)
            scaled += (dy * weight[part],)
            level += scaled[part]
            along += scaled[part] * normed[part]
            new_dweight += (dweight[part] + dy * normed[part],)
            new_dbias += (dbias[part] + dy,)
        dweight, dbias = new_dweight, new_dbias
        # scale, which all of dy has in common, is left out above
        constant = tl.sum(level) * (scale / COLS) * rstd
        tilt = tl.sum(along) * (scale / COLS) * rstd
        tl.store(slope_ptr + at, tilt * rstd)
        tl.store(offset_ptr + at, constant - tilt * (mean * rstd))
        new_total = ()
        for part in tl.static_range(PARTS):
            new_total += (total[part] + scaled[part] * (rstd * scale) - normed[part] * tilt,)
        total = new_total
        total_offset += constant
        if (slot + 1 == rows) | (following != word):
            if begun_before:
                _store_row(shared, total, total_offset, PARTS, BLOCK, COLS)
            else:
                _store_row(dword_ptr + word.to(tl.int64) * COLS, total, total_offset, PARTS, BLOCK, COLS)
                tl.store(runs_ptr + word * 2, begin)
            tl.store(runs_ptr + word * 2 + 1, slot + 1)
            total = zeros
            total_offset = 0.0
            begun_before = False
            begin = slot + 1
        word = following
        at, ahead = ahead, further
        place, segment, mean, rstd = next_place, next_segment, next_mean, next_rstd
    if begin < end:
        if begun_before:
            _store_row(shared, total, total_offset, PARTS, BLOCK, COLS)
        else:
            _store_row(shared + COLS, total, total_offset, PARTS, BLOCK, COLS)
            tl.store(runs_ptr + word * 2, begin)
    for part in tl.static_range(PARTS):
        col = part * BLOCK + tl.arange(0, BLOCK)
        tl.store(sums_ptr + program * 2 * COLS + col, dweight[part] * scale, mask=col < COLS)
        tl.store(sums_ptr + (program * 2 + 1) * COLS + col, dbias[part] * scale, mask=col < COLS)
