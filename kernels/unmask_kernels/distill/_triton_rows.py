"""The kernels of the losses of rows, both bound by memory.

    hidden_kernel        beside the library's products: z = projected + bias - teacher, sums of f z^2, and 2 f z, which
                         the products for the gradients read
    prediction_kernel    a program per row: log-sum-exps of both logits by online softmaxes, then loss and gradient

Traffic of s bytes an element: hidden reads the projected states and the teacher's and writes z, 3 s R E; prediction
reads both logits, twice where a row is longer than the cache of a multiprocessor, and writes the gradient. Sums over
rows are partial sums in a fixed order: no atomics.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["hidden_kernel", "prediction_kernel"]

# Below every logit, and finite: the difference of two infinities is not a number.
_LOWEST = tl.constexpr(-3.0e38)


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["factors_ptr", "losses_ptr", "top_ptr"])
def hidden_kernel(
    x_ptr, teacher_ptr, bias_ptr, factors_ptr, top_ptr, z_ptr, partial_ptr, losses_ptr,
    rows,
    COLUMNS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Loss of a block of columns of a group of rows, and z times 2 f.

    Args:
        x_ptr, teacher_ptr: projected states and the teacher's, (rows, COLUMNS).
        bias_ptr: fp32 (COLUMNS,), or None.
        factors_ptr: fp32 (rows,).
        top_ptr: fp32 scalar that 2 f z is divided by, or None: in fp16, factors of a mean are below the range.
        z_ptr: gets 2 f z, (rows, COLUMNS), or None without gradients; may be x_ptr.
        partial_ptr: sums of 2 f z over a group, fp32 (groups, COLUMNS), or None.
        losses_ptr: fp32 (groups, blocks of columns).
    """
    group = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_columns = column < COLUMNS
    bias = tl.zeros((BLOCK,), dtype=tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + column, mask=in_columns, other=0.0)
    divisor = tl.load(top_ptr) if top_ptr is not None else 1.0
    losses = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    dbias = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for start in range(0, tl.minimum(rows - group * GROUP, GROUP), ROWS):
        row = group * GROUP + start + tl.arange(0, ROWS)
        factor = tl.load(factors_ptr + row, mask=row < rows, other=0.0)[:, None]
        place = row[:, None] * COLUMNS + column[None, :]
        mask = (row < rows)[:, None] & in_columns[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        y = tl.load(teacher_ptr + place, mask=mask, other=0.0).to(tl.float32)
        z = tl.where(mask, x + bias[None, :] - y, 0.0)
        scaled = z * factor
        losses += z * scaled
        if partial_ptr is not None:
            dbias += 2.0 * scaled
        if z_ptr is not None:
            tl.store(z_ptr + place, (2.0 * scaled / divisor).to(z_ptr.dtype.element_ty), mask=mask)
    total = tl.sum(tl.sum(losses, axis=1), axis=0)
    tl.store(losses_ptr + group * tl.num_programs(0) + tl.program_id(0), total)
    if partial_ptr is not None:
        tl.store(partial_ptr + group * COLUMNS + column, tl.sum(dbias, axis=0), mask=in_columns)


@triton.jit
def _add_to_softmax(z, m, l):
    """One step of an online softmax in each lane."""
    m_new = tl.maximum(m, z)
    return m_new, l * tl.exp(m - m_new) + tl.exp(z - m_new)


@triton.jit
def _log_sum_exp(m, l):
    highest = tl.max(m, axis=0)
    return highest + tl.log(tl.sum(l * tl.exp(m - highest), axis=0))


@triton.jit(do_not_specialize=["columns"], do_not_specialize_on_alignment=["factors_ptr", "losses_ptr"])
def prediction_kernel(
    student_ptr, teacher_ptr, factors_ptr, losses_ptr, out_ptr,
    columns, inverse_temperature,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Loss and gradient of a row of logits, (rows, columns).

    Args:
        student_ptr, teacher_ptr: logits.
        factors_ptr, losses_ptr: fp32 (rows,).
        out_ptr: gets the gradient, (rows, columns), or None.
        columns: C.
        inverse_temperature: 1 / t.
    """
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    student_ptr += row * columns
    teacher_ptr += row * columns
    factor = tl.load(factors_ptr + row)
    m = tl.full((BLOCK,), _LOWEST, dtype=tl.float32)
    l = tl.zeros((BLOCK,), dtype=tl.float32)
    teacher_m, teacher_l = m, l
    for start in range(0, columns, BLOCK):
        mask = start + lane < columns
        z = tl.load(student_ptr + start + lane, mask=mask, other=0.0).to(tl.float32) * inverse_temperature
        y = tl.load(teacher_ptr + start + lane, mask=mask, other=0.0).to(tl.float32) * inverse_temperature
        m_new, l_new = _add_to_softmax(z, m, l)
        m, l = tl.where(mask, m_new, m), tl.where(mask, l_new, l)
        m_new, l_new = _add_to_softmax(y, teacher_m, teacher_l)
        teacher_m, teacher_l = tl.where(mask, m_new, teacher_m), tl.where(mask, l_new, teacher_l)
    lse, teacher_lse = _log_sum_exp(m, l), _log_sum_exp(teacher_m, teacher_l)
    loss = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        mask = start + lane < columns
        z = tl.load(student_ptr + start + lane, mask=mask, other=0.0).to(tl.float32) * inverse_temperature
        y = tl.load(teacher_ptr + start + lane, mask=mask, other=0.0).to(tl.float32) * inverse_temperature
        P = tl.where(mask, tl.exp(y - teacher_lse), 0.0)
        loss += P * (lse - z)
        if out_ptr is not None:
            dz = (tl.exp(z - lse) - P) * (factor * inverse_temperature)
            tl.store(out_ptr + row * columns + start + lane, dz.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(losses_ptr + row, tl.sum(loss, axis=0) * factor)
