"""The kernels of the relation loss: two passes over the columns of a row, then one over the rows of a column.

    statistics    the log-sum-exp of a row of scores, of student and teacher, by online softmaxes
    rows_kernel   after statistics: with P of both, KL = sum P_t (L_t - L_s) + P_s - P_t, and dq from dS = P_s - P_t
    columns_kernel  dk from dS, with the log-sum-exps that rows_kernel has left in memory

P_s and P_t both sum to 1, so their difference adds nothing to KL; with it each term is at least 0, and nothing cancels
where the two agree. No matrix of scores exists outside of a tile. An item is a tile of a document and a head; it writes
its loss to a place of its own: no atomics.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .._triton.fences import fenced_jit
from ._triton_pairs import Scales, Sources, load_item, load_rows, locate, seen, seen_range, store_rows

__all__ = ["columns_kernel", "rows_kernel"]

# Below every score, and finite: the difference of two infinities is not a number.
_LOWEST = tl.constexpr(-1.0e30)


@triton.jit
def _online(S, m, l):
    """One step of the online softmax: new maximum and sum of exponentials of each row."""
    m_new = tl.maximum(m, tl.max(S, axis=1))
    return m_new, l * tl.exp(m - m_new) + tl.sum(tl.exp(S - m_new[:, None]), axis=1)


@triton.jit
def _scores(a, b, scale):
    return tl.dot(a, tl.trans(b), input_precision="ieee") * scale


_NOT_COMPILED_IN = ["slots", "tokens", "left", "right"]


@fenced_jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["losses_ptr", "factors_ptr"])
def rows_kernel(
    q_ptr, k_ptr, teacher_q_ptr, teacher_k_ptr, factors_ptr, tiles_ptr, losses_ptr, lse_ptr, dq_ptr,
    student_scale, teacher_scale,
    slots, tokens, left, right,
    q_stride: tl.constexpr, k_stride: tl.constexpr, teacher_q_stride: tl.constexpr, teacher_k_stride: tl.constexpr,
    HEAD_LINES: tl.constexpr, PARTS: tl.constexpr, WITH_GRADIENTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Loss, log-sum-exps and dq of every tile of rows.

    lse_ptr: fp32 (2, H, T), of student and teacher. Other arguments are those of `_triton_score.tiles_kernel`.
    """
    sources = Sources(
        q_ptr, k_ptr, teacher_q_ptr, teacher_k_ptr, q_stride, k_stride, teacher_q_stride, teacher_k_stride
    )
    scales = Scales(student_scale, teacher_scale)
    place = tl.arange(0, TILE.rows)
    end = tl.load(tiles_ptr + 1) * TILE.heads * PARTS
    for index in range(tl.program_id(0), end, tl.num_programs(0)):
        part = index // TILE.heads
        item = load_item(tiles_ptr, factors_ptr, HEAD_LINES + slots + part // PARTS, index % TILE.heads)
        first = item.first + part % PARTS * TILE.rows
        at = locate(item, sources, TILE)
        q = load_rows(at.q_ptr, first, item.length, at.q_stride, TILE.rows, TILE.width, TILE.head_dim)
        teacher_q = load_rows(
            at.teacher_q_ptr, first, item.length, at.teacher_q_stride, TILE.rows, TILE.teacher_width, TILE.teacher_dim
        )
        row = first + place
        low, high = seen_range(item, first, left, right, TILE)
        m = tl.full((TILE.rows,), _LOWEST, dtype=tl.float32)
        l = tl.zeros((TILE.rows,), dtype=tl.float32)
        teacher_m, teacher_l = m, l
        for column in range(low, high, TILE.rows):
            k = load_rows(at.k_ptr, column, item.length, at.k_stride, TILE.rows, TILE.width, TILE.head_dim)
            teacher_k = load_rows(
                at.teacher_k_ptr, column, item.length, at.teacher_k_stride,
                TILE.rows, TILE.teacher_width, TILE.teacher_dim,
            )  # fmt: skip
            columns = column + place[None, :]
            visible = columns < item.length
            if TILE.banded:
                visible = visible & seen(row[:, None], columns, left, right)
            m, l = _online(tl.where(visible, _scores(q, k, scales.student), _LOWEST), m, l)
            S = tl.where(visible, _scores(teacher_q, teacher_k, scales.teacher), _LOWEST)
            teacher_m, teacher_l = _online(S, teacher_m, teacher_l)
        # rows past the end, and tiles that are skipped, have no sum
        lse = m + tl.log(tl.where(l > 0.0, l, 1.0))
        teacher_lse = teacher_m + tl.log(tl.where(teacher_l > 0.0, teacher_l, 1.0))
        dq = tl.zeros((TILE.rows, TILE.width), dtype=tl.float32)
        losses = tl.zeros((TILE.rows,), dtype=tl.float32)
        for column in range(low, high, TILE.rows):
            k = load_rows(at.k_ptr, column, item.length, at.k_stride, TILE.rows, TILE.width, TILE.head_dim)
            teacher_k = load_rows(
                at.teacher_k_ptr, column, item.length, at.teacher_k_stride,
                TILE.rows, TILE.teacher_width, TILE.teacher_dim,
            )  # fmt: skip
            columns = column + place[None, :]
            visible = (columns < item.length) & (row[:, None] < item.length)
            if TILE.banded:
                visible = visible & seen(row[:, None], columns, left, right)
            log = tl.where(visible, _scores(q, k, scales.student) - lse[:, None], _LOWEST)
            teacher_log = _scores(teacher_q, teacher_k, scales.teacher) - teacher_lse[:, None]
            teacher_log = tl.where(visible, teacher_log, _LOWEST)
            P = tl.exp(teacher_log)
            dS = tl.exp(log) - P
            losses += tl.sum(P * (teacher_log - log) + dS, axis=1)
            if WITH_GRADIENTS:
                dq = tl.dot(dS.to(k.dtype), k, dq, input_precision="ieee")
        tl.store(losses_ptr + index, tl.sum(losses, axis=0) * item.factor)
        if WITH_GRADIENTS:
            store_rows(dq_ptr, dq * (scales.student * item.factor), item, first, TILE)
            of_head = lse_ptr + tl.cast(item.head, tl.int64) * tokens + item.start
            tl.store(of_head + row, lse, mask=row < item.length)
            of_teacher = of_head + tl.cast(tokens, tl.int64) * TILE.heads
            tl.store(of_teacher + row, teacher_lse, mask=row < item.length)


@fenced_jit(do_not_specialize=_NOT_COMPILED_IN, do_not_specialize_on_alignment=["factors_ptr"])
def columns_kernel(
    q_ptr, k_ptr, teacher_q_ptr, teacher_k_ptr, factors_ptr, tiles_ptr, lse_ptr, dk_ptr,
    student_scale, teacher_scale,
    slots, tokens, left, right,
    q_stride: tl.constexpr, k_stride: tl.constexpr, teacher_q_stride: tl.constexpr, teacher_k_stride: tl.constexpr,
    HEAD_LINES: tl.constexpr, PARTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """dk of every tile of columns; lse_ptr is read."""
    sources = Sources(
        q_ptr, k_ptr, teacher_q_ptr, teacher_k_ptr, q_stride, k_stride, teacher_q_stride, teacher_k_stride
    )
    scales = Scales(student_scale, teacher_scale)
    place = tl.arange(0, TILE.rows)
    end = tl.load(tiles_ptr + 1) * TILE.heads * PARTS
    for index in range(tl.program_id(0), end, tl.num_programs(0)):
        part = index // TILE.heads
        item = load_item(tiles_ptr, factors_ptr, HEAD_LINES + slots + part // PARTS, index % TILE.heads)
        first = item.first + part % PARTS * TILE.rows
        at = locate(item, sources, TILE)
        k = load_rows(at.k_ptr, first, item.length, at.k_stride, TILE.rows, TILE.width, TILE.head_dim)
        teacher_k = load_rows(
            at.teacher_k_ptr, first, item.length, at.teacher_k_stride, TILE.rows, TILE.teacher_width, TILE.teacher_dim
        )
        of_head = lse_ptr + tl.cast(item.head, tl.int64) * tokens + item.start
        of_teacher = of_head + tl.cast(tokens, tl.int64) * TILE.heads
        dk = tl.zeros((TILE.rows, TILE.width), dtype=tl.float32)
        low, high = seen_range(item, first, right, left, TILE)
        for start in range(low, high, TILE.rows):
            row = start + place
            q = load_rows(at.q_ptr, start, item.length, at.q_stride, TILE.rows, TILE.width, TILE.head_dim)
            teacher_q = load_rows(
                at.teacher_q_ptr, start, item.length, at.teacher_q_stride,
                TILE.rows, TILE.teacher_width, TILE.teacher_dim,
            )  # fmt: skip
            lse = tl.load(of_head + row, mask=row < item.length, other=0.0)
            teacher_lse = tl.load(of_teacher + row, mask=row < item.length, other=0.0)
            columns = first + place[:, None]
            visible = (columns < item.length) & (row[None, :] < item.length)
            if TILE.banded:
                visible = visible & seen(row[None, :], columns, left, right)
            # columns by rows, as dS is
            log = _scores(k, q, scales.student) - lse[None, :]
            teacher_log = _scores(teacher_k, teacher_q, scales.teacher) - teacher_lse[None, :]
            dS = tl.exp(tl.where(visible, log, _LOWEST)) - tl.exp(tl.where(visible, teacher_log, _LOWEST))
            dk = tl.dot(dS.to(q.dtype), q, dk, input_precision="ieee")
        store_rows(dk_ptr, dk * (scales.student * item.factor), item, first, TILE)
