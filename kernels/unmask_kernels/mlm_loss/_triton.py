"""Triton mlm_loss: what happens between the products, in two streaming kernels over a chunk of logits.

    statistics   a program per row: log-sum-exp by an online maximum m and sum l, loss, first column of the maximum
    gradient     a tile of columns of a group of rows: dlogits = p - onehot(label) in place of the logits; their sums
                 over the rows are the gradient of the bias

Memory bound. Traffic of M x V logits of s bytes: 3 s M V, and 4 V bytes for each group of rows. One kernel that keeps a
row in registers would read it once, 2 s M V, but the gradient of the bias then reads the chunk again: the same traffic,
from a program of 1,024 threads that loads, computes and stores in turn. Two kernels set no limit on V.

Columns from V to the padded width are read and written like the others, so that every access is 16 bytes wide, but
they add nothing. Sums over rows are partial sums in a fixed order: no atomics.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .._triton.launch import OPTIONS, device_guard
from . import chunks
from .arguments import Arguments, BackwardArguments, Gradients, Results

__all__ = ["backward", "forward"]

# Far below every logit, and finite: the difference of two of them is 0, but that of two infinities is not a number.
_LOWEST = tl.constexpr(-3.0e38)
# In both kernels a thread has two loads of 16 bytes at a time. A row of the gradient's tile takes all threads.
_LANES, _VECTOR = 512, 8
_TILE_ROWS, _TILE_COLUMNS, _GROUP = 2, 1024, 64


@triton.jit(do_not_specialize_on_alignment=["labels_ptr", "losses_ptr", "correct_ptr"])
def _statistics_kernel(
    logits_ptr, labels_ptr, losses_ptr, correct_ptr, lse_ptr,
    V: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Reads logits (rows, COLUMNS), labels (rows,) int64; writes losses, lse (rows,) fp32, correct (rows,) bool."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    if label >= 0:
        row_ptr = logits_ptr + row * COLUMNS
        in_vector = tl.arange(0, VECTOR)
        offset = tl.arange(0, LANES)[:, None] * VECTOR + in_vector[None, :]  # (LANES, VECTOR): 16 bytes a lane
        m_lane = tl.full((LANES,), _LOWEST, dtype=tl.float32)
        l_lane = tl.zeros((LANES,), dtype=tl.float32)
        first = tl.zeros((LANES,), dtype=tl.int32)  # start of the tile in which a lane met its maximum first
        for start in range(0, COLUMNS, LANES * VECTOR):
            column = start + offset
            z = tl.load(row_ptr + column, mask=column < COLUMNS, other=0.0).to(tl.float32)
            z = tl.where(column < V, z, _LOWEST)
            m_tile = tl.max(z, axis=1)  # (LANES,)
            first = tl.where(m_tile > m_lane, start, first)
            m_new = tl.maximum(m_tile, m_lane)
            l_lane = l_lane * tl.exp(m_lane - m_new) + tl.sum(tl.exp(z - m_new[:, None]), axis=1)
            m_lane = m_new
        m = tl.max(m_lane, axis=0)
        lse = m + tl.log(tl.sum(l_lane * tl.exp(m_lane - m), axis=0))
        # The first vector of columns that holds the maximum, then the first of its columns.
        vector = tl.min(tl.where(m_lane == m, first + tl.arange(0, LANES) * VECTOR, COLUMNS), axis=0)
        z = tl.load(row_ptr + vector + in_vector, mask=vector + in_vector < V, other=_LOWEST).to(tl.float32)
        predicted = tl.min(tl.where(z == m, vector + in_vector, COLUMNS), axis=0)
        target = tl.load(row_ptr + label, mask=label < V, other=0.0).to(tl.float32)
        tl.store(losses_ptr + row, lse - target)
        tl.store(correct_ptr + row, predicted == label)
        tl.store(lse_ptr + row, lse)
    else:
        tl.store(losses_ptr + row, 0.0)
        tl.store(correct_ptr + row, False)
        tl.store(lse_ptr + row, 0.0)


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["labels_ptr"])
def _gradient_kernel(
    logits_ptr, labels_ptr, lse_ptr, partial_ptr,
    rows,
    V: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Replaces logits (rows, COLUMNS) by dlogits, and writes their sums over GROUP rows, partial (groups, V) fp32.

    Reads labels (rows,) int64 and lse (rows,) fp32.
    """
    group = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    in_vocabulary = column < V
    dbias = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for start in range(0, tl.minimum(rows - group * GROUP, GROUP), ROWS):
        row = group * GROUP + start + tl.arange(0, ROWS)  # (ROWS,)
        in_rows = row < rows
        label = tl.load(labels_ptr + row, mask=in_rows, other=-1)
        lse = tl.load(lse_ptr + row, mask=in_rows, other=0.0)
        tile_ptr = logits_ptr + row[:, None] * COLUMNS + column[None, :]
        mask = in_rows[:, None] & (column < COLUMNS)[None, :]
        z = tl.load(tile_ptr, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
        dlogits = tl.exp(z - lse[:, None]) - (column[None, :] == label[:, None]).to(tl.float32)
        dlogits = tl.where(in_vocabulary[None, :] & (label >= 0)[:, None], dlogits, 0.0)
        tl.store(tile_ptr, dlogits.to(logits_ptr.dtype.element_ty), mask=mask)
        if HAS_BIAS:
            dbias += dlogits
    if HAS_BIAS:
        tl.store(partial_ptr + group * V + column, tl.sum(dbias, axis=0), mask=in_vocabulary)


def forward(arguments: Arguments) -> Results:
    """Take the chunks one after the other."""
    return chunks.forward(_cross_entropy, "triton", arguments)


def backward(arguments: BackwardArguments) -> Gradients:
    """Scale what the forward computed, and finish the gradient of weight."""
    return chunks.backward("triton", arguments)


def _cross_entropy(chunk: chunks.Chunk) -> None:
    """See `chunks.Chunk`."""
    logits, labels, losses, correct, dbias, vocabulary, with_gradients = chunk
    rows, columns = logits.shape
    lse = losses.new_empty(rows)
    with device_guard(logits):
        _statistics_kernel[(rows,)](
            logits_ptr=logits,
            labels_ptr=labels,
            losses_ptr=losses,
            correct_ptr=correct,
            lse_ptr=lse,
            V=vocabulary,
            COLUMNS=columns,
            LANES=_LANES,
            VECTOR=_VECTOR,
            num_warps=8,
            **OPTIONS,
        )
        if not with_gradients:
            return
        groups = triton.cdiv(rows, _GROUP)
        partial_dbias = None if dbias is None else losses.new_empty((groups, vocabulary))
        _gradient_kernel[(triton.cdiv(columns, _TILE_COLUMNS), groups)](
            logits_ptr=logits,
            labels_ptr=labels,
            lse_ptr=lse,
            partial_ptr=partial_dbias,
            rows=rows,
            V=vocabulary,
            COLUMNS=columns,
            HAS_BIAS=dbias is not None,
            GROUP=_GROUP,
            ROWS=_TILE_ROWS,
            BLOCK=_TILE_COLUMNS,
            num_warps=4,
            **OPTIONS,
        )
    if dbias is not None and partial_dbias is not None:
        dbias += partial_dbias.sum(0)
