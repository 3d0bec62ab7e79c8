"""The kernels of the score loss: Gram matrices for long documents, tiles of scores for the others.

With a, b the scales of student and teacher, and f the factor of the document, tile by tile

    D = a Q_s K_s^T - b Q_t K_t^T        loss = f |D|^2        dQ_s = 2 a f D K_s        dK_s = 2 a f D^T Q_s

and by Gram matrices, of which X_yz is X_y^T X_z,

    |D|^2 = a^2 <Q_ss, K_ss> - 2 a b <Q_ts, K_ts> + b^2 <Q_tt, K_tt>
    dQ_s = 2 a f (a Q_s K_ss - b Q_t K_ts)        dK_s = 2 a f (a K_s Q_ss - b K_t Q_ts)

    tiles_kernel    an item is a tile of a document and a head: as rows it gives dQ_s and the loss, as columns dK_s
    gram_kernel     an item is a document and a head: a pass for each of three pairs of matrices, and one for the
                    gradients

Gram matrices are sums in fp32 of exact products of 16-bit values. Those that the gradients need wait in a scratch of
the program, which stays in the L2 cache. Where student and teacher nearly agree, |D|^2 is a small sum of large terms:
gram_kernel leaves an item whose loss is below 1/64 of the teacher's squared scores to tiles_kernel, by a flag in
memory, so that the host need not know.

Every item writes its loss to a place of its own: no atomics, so results do not depend on timing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .._triton.fences import fenced_jit
from ._triton_pairs import Scales, Sources, load_item, load_rows, locate, seen, seen_range, store_rows

__all__ = ["gram_kernel", "tiles_kernel"]

_NEAR = tl.constexpr(1 / 64)


@triton.jit
def _difference(student, teacher, scales, first, start, left, right, TILE: tl.constexpr):
    """Scores of two pairs of tiles, (ROWS, ROWS): rows of the first of each pair, from `first` on, columns of the
    second, from `start` on.
    """
    D = tl.dot(student[0], tl.trans(student[1]), input_precision="ieee") * scales.student
    D -= tl.dot(teacher[0], tl.trans(teacher[1]), input_precision="ieee") * scales.teacher
    if TILE.banded:
        place = tl.arange(0, TILE.rows)
        D = tl.where(seen(first + place[:, None], start + place[None, :], left, right), D, 0.0)
    return D


@triton.jit
def _as_rows(item, at, dq_ptr, scales, first, left, right, TILE: tl.constexpr, WITH_GRADIENTS: tl.constexpr):
    """Write dq of the rows from `first` on; returns their part of |D|^2."""
    q = load_rows(at.q_ptr, first, item.length, at.q_stride, TILE.rows, TILE.width, TILE.head_dim)
    teacher_q = load_rows(
        at.teacher_q_ptr, first, item.length, at.teacher_q_stride, TILE.rows, TILE.teacher_width, TILE.teacher_dim
    )
    dq = tl.zeros((TILE.rows, TILE.width), dtype=tl.float32)
    squares = tl.zeros((TILE.rows,), dtype=tl.float32)
    low, high = seen_range(item, first, left, right, TILE)
    for column in range(low, high, TILE.rows):
        k = load_rows(at.k_ptr, column, item.length, at.k_stride, TILE.rows, TILE.width, TILE.head_dim)
        teacher_k = load_rows(
            at.teacher_k_ptr, column, item.length, at.teacher_k_stride, TILE.rows, TILE.teacher_width, TILE.teacher_dim
        )
        D = _difference((q, k), (teacher_q, teacher_k), scales, first, column, left, right, TILE)
        squares += tl.sum(D * D, axis=1)
        if WITH_GRADIENTS:
            dq = tl.dot(D.to(k.dtype), k, dq, input_precision="ieee")
    if WITH_GRADIENTS:
        store_rows(dq_ptr, dq * (2.0 * scales.student * item.factor), item, first, TILE)
    return tl.sum(squares, axis=0)


@triton.jit
def _as_columns(item, at, dk_ptr, scales, first, left, right, TILE: tl.constexpr):
    """Write dk of the columns from `first` on."""
    k = load_rows(at.k_ptr, first, item.length, at.k_stride, TILE.rows, TILE.width, TILE.head_dim)
    teacher_k = load_rows(
        at.teacher_k_ptr, first, item.length, at.teacher_k_stride, TILE.rows, TILE.teacher_width, TILE.teacher_dim
    )
    dk = tl.zeros((TILE.rows, TILE.width), dtype=tl.float32)
    low, high = seen_range(item, first, right, left, TILE)
    for row in range(low, high, TILE.rows):
        q = load_rows(at.q_ptr, row, item.length, at.q_stride, TILE.rows, TILE.width, TILE.head_dim)
        teacher_q = load_rows(
            at.teacher_q_ptr, row, item.length, at.teacher_q_stride, TILE.rows, TILE.teacher_width, TILE.teacher_dim
        )
        # transposed, with columns and rows exchanged
        D = _difference((k, q), (teacher_k, teacher_q), scales, first, row, right, left, TILE)
        dk = tl.dot(D.to(q.dtype), q, dk, input_precision="ieee")
    store_rows(dk_ptr, dk * (2.0 * scales.student * item.factor), item, first, TILE)


@fenced_jit(do_not_specialize=["slots", "left", "right"], do_not_specialize_on_alignment=["losses_ptr", "factors_ptr"])
def tiles_kernel(
    q_ptr, k_ptr, teacher_q_ptr, teacher_k_ptr, factors_ptr, tiles_ptr, losses_ptr, todo_ptr, dq_ptr, dk_ptr,
    student_scale, teacher_scale,
    slots, left, right,
    q_stride: tl.constexpr, k_stride: tl.constexpr, teacher_q_stride: tl.constexpr, teacher_k_stride: tl.constexpr,
    HEAD_LINES: tl.constexpr, PARTS: tl.constexpr, WITH_GRADIENTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Loss and gradients of the tiles of all documents, but for those that `gram_kernel` has done.

    Args:
        q_ptr, k_ptr: (T, H, K), rows q_stride and k_stride apart; teacher's likewise, (T, H, G).
        factors_ptr, tiles_ptr: fp32 (slots,); `Documents.tiles`.
        losses_ptr: fp32, one place for each tile and head from the first of the work list on.
        todo_ptr: int32 (slots, H), 0 where nothing is left to do; None: everything is.
        dq_ptr, dk_ptr: (T, H, K), contiguous.
        PARTS: tiles of TILE.rows rows in a tile of the work list.
    """
    sources = Sources(
        q_ptr, k_ptr, teacher_q_ptr, teacher_k_ptr, q_stride, k_stride, teacher_q_stride, teacher_k_stride
    )
    scales = Scales(student_scale, teacher_scale)
    end = tl.load(tiles_ptr + 1) * TILE.heads * PARTS
    for index in range(tl.program_id(0), end, tl.num_programs(0)):
        part = index // TILE.heads
        item = load_item(tiles_ptr, factors_ptr, HEAD_LINES + slots + part // PARTS, index % TILE.heads)
        todo = item.first < item.length
        if todo_ptr is not None:
            todo = tl.load(todo_ptr + item.document * TILE.heads + item.head) != 0
        if todo:
            first = item.first + part % PARTS * TILE.rows
            at = locate(item, sources, TILE)
            squares = _as_rows(item, at, dq_ptr, scales, first, left, right, TILE, WITH_GRADIENTS)
            if WITH_GRADIENTS:
                _as_columns(item, at, dk_ptr, scales, first, left, right, TILE)
            tl.store(losses_ptr + index, squares * item.factor)


@triton.jit
def _grams(at, item, LEFT: tl.constexpr, RIGHT: tl.constexpr, TILE: tl.constexpr):
    """Q_lr and K_lr of a document's rows, (left width, right width) in fp32; LEFT and RIGHT: whether it is a teacher's.

    Two matrices at a time leave registers for what goes into them.
    """
    LEFT_WIDTH: tl.constexpr = TILE.teacher_width if LEFT else TILE.width
    RIGHT_WIDTH: tl.constexpr = TILE.teacher_width if RIGHT else TILE.width
    of_q = tl.zeros((LEFT_WIDTH, RIGHT_WIDTH), dtype=tl.float32)
    of_k = tl.zeros((LEFT_WIDTH, RIGHT_WIDTH), dtype=tl.float32)
    for row in range(0, item.length, TILE.rows):
        q, k = _load_pair(at, row, item, LEFT, TILE)
        if LEFT == RIGHT:
            of_q = tl.dot(tl.trans(q), q, of_q, input_precision="ieee")
            of_k = tl.dot(tl.trans(k), k, of_k, input_precision="ieee")
        else:
            right_q, right_k = _load_pair(at, row, item, RIGHT, TILE)
            of_q = tl.dot(tl.trans(q), right_q, of_q, input_precision="ieee")
            of_k = tl.dot(tl.trans(k), right_k, of_k, input_precision="ieee")
    return of_q, of_k


@triton.jit
def _load_pair(at, row, item, TEACHER: tl.constexpr, TILE: tl.constexpr):
    """The rows from `row` on of q and of k, of the teacher or of the student."""
    if TEACHER:
        WIDTH: tl.constexpr = TILE.teacher_width
        DIM: tl.constexpr = TILE.teacher_dim
        q = load_rows(at.teacher_q_ptr, row, item.length, at.teacher_q_stride, TILE.rows, WIDTH, DIM)
        k = load_rows(at.teacher_k_ptr, row, item.length, at.teacher_k_stride, TILE.rows, WIDTH, DIM)
    else:
        q = load_rows(at.q_ptr, row, item.length, at.q_stride, TILE.rows, TILE.width, TILE.head_dim)
        k = load_rows(at.k_ptr, row, item.length, at.k_stride, TILE.rows, TILE.width, TILE.head_dim)
    return q, k


@triton.jit
def _inner(x, y):
    return tl.sum(tl.sum(x * y, axis=1), axis=0)


@triton.jit
def _matrix(ptr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Pointers to a matrix (HEIGHT, WIDTH) at ptr."""
    return ptr + tl.arange(0, HEIGHT)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]


@triton.jit
def _add_product(acc, x_ptr, stride, row, item, y_ptr, DIM: tl.constexpr, HEIGHT: tl.constexpr, TILE: tl.constexpr):
    """acc + x y in fp32, for the rows of x (s, DIM) from `row` on and y (HEIGHT, width) in the scratch.

    A part of the sum at a time: three products of tensor cores for one take three times the registers.
    """
    STEP: tl.constexpr = 32 if HEIGHT > 32 else 16
    rows = row + tl.arange(0, TILE.rows)[:, None]
    for start in range(0, HEIGHT, STEP):
        col = start + tl.arange(0, STEP)[None, :]
        mask = rows < item.length
        if HEIGHT != DIM:
            mask &= col < DIM
        x = tl.load(x_ptr + tl.cast(rows, tl.int64) * stride + col, mask=mask, other=0.0).to(tl.float32)
        y = tl.load(_matrix(y_ptr + start * TILE.width, STEP, TILE.width))
        if TILE.split:
            acc = tl.dot(x, y, acc, input_precision="tf32x3")
        else:
            acc = tl.dot(x, y, acc, input_precision="ieee")
    return acc


@triton.jit
def _write_gradient(
    x_ptr, stride, teacher_ptr, teacher_stride, y_ptr, out_ptr, row, item, factor, scales, TILE: tl.constexpr
):  # fmt: skip
    """Write a X_s Y_ss - b X_t Y_ts, times a factor, for the rows from `row` on; Y_ss and Y_ts are in the scratch."""
    acc = tl.zeros((TILE.rows, TILE.width), dtype=tl.float32)
    below = y_ptr + TILE.width * TILE.width
    of_teacher = _add_product(
        acc, teacher_ptr, teacher_stride, row, item, below, TILE.teacher_dim, TILE.teacher_width, TILE
    )
    acc -= of_teacher * (scales.teacher / scales.student)
    acc = _add_product(acc, x_ptr, stride, row, item, y_ptr, TILE.head_dim, TILE.width, TILE)
    store_rows(out_ptr, acc * (factor * scales.student), item, row, TILE)


@fenced_jit(do_not_specialize=["lower"], do_not_specialize_on_alignment=["losses_ptr", "factors_ptr"])
def gram_kernel(
    q_ptr, k_ptr, teacher_q_ptr, teacher_k_ptr, factors_ptr, tiles_ptr, losses_ptr, todo_ptr, scratch_ptr,
    dq_ptr, dk_ptr, student_scale, teacher_scale, lower,
    q_stride: tl.constexpr, k_stride: tl.constexpr, teacher_q_stride: tl.constexpr, teacher_k_stride: tl.constexpr,
    HEAD_LINES: tl.constexpr, WITH_GRADIENTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Loss and gradients of the documents over BOUNDS[lower] tokens, whose pairs are all seen.

    Args:
        losses_ptr: fp32, one place for each document and head from the first of the work list on.
        todo_ptr: int32 (slots, H), 1; gets 0 where nothing is left to `tiles_kernel`.
        scratch_ptr: fp32 (programs, 2, width + teacher_width, width), uninitialised.
    The others are those of `tiles_kernel`.
    """
    PART: tl.constexpr = (TILE.width + TILE.teacher_width) * TILE.width
    BELOW: tl.constexpr = TILE.width * TILE.width
    sources = Sources(
        q_ptr, k_ptr, teacher_q_ptr, teacher_k_ptr, q_stride, k_stride, teacher_q_stride, teacher_k_stride
    )
    scales = Scales(student_scale, teacher_scale)
    of_k_ptr = scratch_ptr + tl.program_id(0).to(tl.int64) * 2 * PART
    of_q_ptr = of_k_ptr + PART
    for index in range(tl.program_id(0), tl.load(tiles_ptr + 4 * lower) * TILE.heads, tl.num_programs(0)):
        item = load_item(tiles_ptr, factors_ptr, HEAD_LINES + index // TILE.heads, index % TILE.heads)
        at = locate(item, sources, TILE)
        of_q, of_k = _grams(at, item, False, False, TILE)
        squares = _inner(of_q, of_k) * (student_scale * student_scale)
        if WITH_GRADIENTS:
            # what the threads of the item before have read
            tl.debug_barrier()
            tl.store(_matrix(of_q_ptr, TILE.width, TILE.width), of_q)
            tl.store(_matrix(of_k_ptr, TILE.width, TILE.width), of_k)
        of_q, of_k = _grams(at, item, True, False, TILE)
        squares -= 2.0 * _inner(of_q, of_k) * (student_scale * teacher_scale)
        if WITH_GRADIENTS:
            tl.store(_matrix(of_q_ptr + BELOW, TILE.teacher_width, TILE.width), of_q)
            tl.store(_matrix(of_k_ptr + BELOW, TILE.teacher_width, TILE.width), of_k)
        of_q, of_k = _grams(at, item, True, True, TILE)
        of_teacher = _inner(of_q, of_k) * (teacher_scale * teacher_scale)
        squares += of_teacher
        done = squares >= _NEAR * of_teacher
        tl.store(todo_ptr + item.document * TILE.heads + item.head, tl.where(done, 0, 1))
        tl.store(losses_ptr + index, tl.where(done, squares * item.factor, 0.0))
        if WITH_GRADIENTS:
            # what one thread has written to the scratch, others read
            tl.debug_barrier()
            if done:
                factor = 2.0 * student_scale * item.factor
                for row in range(0, item.length, TILE.rows):
                    _write_gradient(
                        at.q_ptr, at.q_stride, at.teacher_q_ptr, at.teacher_q_stride, of_k_ptr, dq_ptr,
                        row, item, factor, scales, TILE,
                    )  # fmt: skip
                    _write_gradient(
                        at.k_ptr, at.k_stride, at.teacher_k_ptr, at.teacher_k_stride, of_q_ptr, dk_ptr,
                        row, item, factor, scales, TILE,
                    )  # fmt: skip
