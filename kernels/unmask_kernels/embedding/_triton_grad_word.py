"""Gradients of the word table, weight and bias on the GPU: one kernel, over the tokens in the order of their ids.

    sorted ids   | 7 7 7 | 9 | 103 103 103 103 103 103 103 103 103 ... | 2050 |         a run: the tokens of one word
    spans        | program 0   | program 1   | program 2   |

A program walks its span of tokens one by one: it reads dy and the three rows of h, computes dh in registers and adds it
to the sum of the run. At the end of a run it stores the row of dword, and where the run begins and ends. If several
spans share a run, each leaves a partial sum, which the last kernel of `_triton_backward` adds up. So dh is never
stored, and a row of the word table is fetched once a run. A word that is an eighth of all tokens, as [MASK] is in
training, is the work of an eighth of the programs. There are as many spans as the GPU runs programs at once.

With dx_hat = keep dy / (1 - p) * weight and <.> the mean over columns,

    c1 = rstd <dx_hat x_hat>,   c2 = rstd <dx_hat>
    dh = rstd dx_hat - c1 x_hat - c2
       = rstd dx_hat - slope h - offset          slope = c1 rstd,  offset = c2 - c1 mean rstd

slope and offset are stored: `_triton_grad_position` computes dh again from them. One program computes each sum, in a
fixed order: no atomics. Traffic of a token: its dy, 8 bytes of slope and offset, some 60 of indices; of a word: its row
twice.
"""

# mypy: disable-error-code="assignment"
# (tuples of a kernel grow part by part)

from __future__ import annotations

import triton
import triton.language as tl

from ._triton_row import gather_sum, kept, load_bitmask

__all__ = ["grad_word_kernel"]


@triton.jit
def _load_token(positions_ptr, segments_ptr, mean_ptr, rstd_ptr, token, COLS: tl.constexpr):
    # first elements of the rows of position and segment, mean and rstd
    position_row = tl.load(positions_ptr + token) * COLS
    segment_row = position_row * 0
    if segments_ptr is not None:
        segment_row = tl.load(segments_ptr + token).to(tl.int64) * COLS
    return position_row, segment_row, tl.load(mean_ptr + token), tl.load(rstd_ptr + token)


@triton.jit
def _store_sum(row_ptr, run_sum, run_c2, COLS: tl.constexpr, TILE: tl.constexpr):
    PARTS: tl.constexpr = TILE.parts
    for part in tl.static_range(PARTS):
        col = part * TILE.block + tl.arange(0, TILE.block)
        tl.store(row_ptr + col, run_sum[part] - run_c2, mask=col < COLS)


@triton.jit(do_not_specialize=["rows", "span"])
def grad_word_kernel(
    dy_ptr, sorted_ids_ptr, tokens_ptr, positions_ptr, segments_ptr, word_ptr, position_ptr, segment_ptr, weight_ptr,
    mean_ptr, rstd_ptr, bitmask_ptr, slope_ptr, offset_ptr, dword_ptr, runs_ptr, partial_ptr, norm_sums_ptr,
    rows, span, scale,
    COLS: tl.constexpr, SHIFT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Compute dword (V, COLS), slope and offset (rows,), and the sums of each program, all fp32.

    Reads dy (rows, COLS); sorted_ids (rows,), each with SHIFT added; tokens (rows,) int64, where these ids stand;
    positions, segments (rows,), segments may be None; word (V, COLS), position (P, COLS), segment (N, COLS), weight
    (COLS,), mean, rstd (rows,), all fp32; the bitmask of `row_layout`, None without dropout.
    Writes runs (V, 2) int32: where the run of a word begins and ends; partial (programs, 2, COLS): the sums of the runs
    that go on from the span before and into the span behind; norm_sums (programs, 2, COLS): of dweight and dbias.
    """
    PARTS: tl.constexpr = TILE.parts
    BLOCK: tl.constexpr = TILE.block
    program = tl.program_id(0).to(tl.int64)
    first = tl.program_id(0) * span
    end = tl.minimum(first + span, rows)
    weight, zeros = (), ()
    for part in tl.static_range(PARTS):
        col = part * BLOCK + tl.arange(0, BLOCK)
        weight += (tl.load(weight_ptr + col, mask=col < COLS, other=0.0),)
        zeros += (tl.zeros((BLOCK,), dtype=tl.float32),)
    dweight, dbias, run_sum = zeros, zeros, zeros
    run_c2 = 0.0
    partial = partial_ptr + program * 2 * COLS
    word = tl.load(sorted_ids_ptr + first).to(tl.int32) - SHIFT
    word_before = tl.load(sorted_ids_ptr + tl.maximum(first - 1, 0)).to(tl.int32) - SHIFT
    began_before = (first > 0) & (word == word_before)
    begin = first
    # tokens are known two ahead and what belongs to them one ahead, so that loads need not wait for one another
    token = tl.load(tokens_ptr + first)
    token1 = tl.load(tokens_ptr + tl.minimum(first + 1, rows - 1))
    position_row, segment_row, mean, rstd = _load_token(positions_ptr, segments_ptr, mean_ptr, rstd_ptr, token, COLS)
    for slot in range(first, end):
        token2 = tl.load(tokens_ptr + tl.minimum(slot + 2, rows - 1))
        position_row1, segment_row1, mean1, rstd1 = _load_token(
            positions_ptr, segments_ptr, mean_ptr, rstd_ptr, token1, COLS
        )  # fmt: skip
        word1 = tl.load(sorted_ids_ptr + tl.minimum(slot + 1, rows - 1)).to(tl.int32) - SHIFT
        if bitmask_ptr is not None:
            bits = load_bitmask(bitmask_ptr, token, BLOCK)
        # 1 / (1 - p), which all of dy has in common, is left out of these sums
        x_hat, dx_hat, new_dweight, new_dbias = (), (), (), ()
        sum1 = tl.zeros((BLOCK,), dtype=tl.float32)
        sum2 = tl.zeros((BLOCK,), dtype=tl.float32)
        for part in tl.static_range(PARTS):
            col = part * BLOCK + tl.arange(0, BLOCK)
            dy = tl.load(dy_ptr + token * COLS + col, mask=col < COLS, other=0.0).to(tl.float32)
            if bitmask_ptr is not None:
                dy = tl.where(kept(bits, part, BLOCK), dy, 0.0)
            h = gather_sum(
                word_ptr, position_ptr, segment_ptr, word.to(tl.int64) * COLS, position_row, segment_row, col, COLS
            )  # fmt: skip
            x_hat += (h * rstd - mean * rstd,)
            dx_hat += (dy * weight[part],)
            sum2 += dx_hat[part]
            sum1 += dx_hat[part] * x_hat[part]
            new_dweight += (dweight[part] + dy * x_hat[part],)
            new_dbias += (dbias[part] + dy,)
        dweight, dbias = new_dweight, new_dbias
        c2 = tl.sum(sum2) * (scale / COLS) * rstd
        c1 = tl.sum(sum1) * (scale / COLS) * rstd
        tl.store(slope_ptr + token, c1 * rstd)
        tl.store(offset_ptr + token, c2 - c1 * (mean * rstd))
        new_run_sum = ()
        for part in tl.static_range(PARTS):
            new_run_sum += (run_sum[part] + dx_hat[part] * (rstd * scale) - x_hat[part] * c1,)
        run_sum = new_run_sum
        run_c2 += c2
        if (slot + 1 == rows) | (word1 != word):
            if began_before:
                _store_sum(partial, run_sum, run_c2, COLS, TILE)
            else:
                _store_sum(dword_ptr + word.to(tl.int64) * COLS, run_sum, run_c2, COLS, TILE)
                tl.store(runs_ptr + word * 2, begin)
            tl.store(runs_ptr + word * 2 + 1, slot + 1)
            run_sum = zeros
            run_c2 = 0.0
            began_before = False
            begin = slot + 1
        word = word1
        token, token1 = token1, token2
        position_row, segment_row, mean, rstd = position_row1, segment_row1, mean1, rstd1
    if begin < end:
        if began_before:
            _store_sum(partial, run_sum, run_c2, COLS, TILE)
        else:
            _store_sum(partial + COLS, run_sum, run_c2, COLS, TILE)
            tl.store(runs_ptr + word * 2, begin)
    for part in tl.static_range(PARTS):
        col = part * BLOCK + tl.arange(0, BLOCK)
        tl.store(norm_sums_ptr + program * 2 * COLS + col, dweight[part] * scale, mask=col < COLS)
        tl.store(norm_sums_ptr + (program * 2 + 1) * COLS + col, dbias[part] * scale, mask=col < COLS)
