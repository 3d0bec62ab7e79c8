"""Triton mlm_loss: what happens between the products, in two streaming passes over a chunk of logits.

    statistics   a program per row: log-sum-exp by online max and sum, loss, first column of the max
    gradient     a tile of columns of a group of rows: used * (p - onehot) in place of the logits; their sums over rows
                 are the gradient of the bias

Memory bound. Traffic of M x V logits of s bytes: 3 s M V, and 4 V bytes for each group of rows. One kernel that keeps a
row in registers would read it once, 2 s M V, but the gradient of the bias then reads the chunk again: the same traffic,
with a program of 1,024 threads that loads, computes and stores in turn. Two passes have no limit on V.

Columns from V to the padded width are read and written like the others, so that every access is 16 bytes wide, and
count nothing. Sums over rows are partial sums in a fixed order: no atomics.
"""

from __future__ import annotations

from functools import partial

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import OPTIONS, device_guard
from . import chunks

__all__ = ["backward", "forward"]

# Far below every logit, and finite: the difference of two of them is 0 where that of two infinities is not a number.
_LOWEST = tl.constexpr(-3.0e38)
# Two loads of 16 bytes a thread at a time in both kernels; a row of the gradient's tile takes all its threads.
_LANES, _VECTOR = 512, 8
_TILE_ROWS, _TILE_COLUMNS, _GROUP = 2, 1024, 64


@triton.jit(do_not_specialize_on_alignment=["labels_ptr", "losses_ptr", "hits_ptr"])
def _statistics_kernel(
    logits_ptr, labels_ptr, losses_ptr, hits_ptr, lse_ptr,
    V: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    if label >= 0:
        row_ptr = logits_ptr + row * COLUMNS
        piece = tl.arange(0, VECTOR)
        offset = tl.arange(0, LANES)[:, None] * VECTOR + piece[None, :]  # (LANES, VECTOR), a load of 16 bytes a thread
        top = tl.full((LANES,), _LOWEST, dtype=tl.float32)
        total = tl.zeros((LANES,), dtype=tl.float32)
        first = tl.zeros((LANES,), dtype=tl.int32)  # the tile in which a lane met its maximum first
        for start in range(0, COLUMNS, LANES * VECTOR):
            column = start + offset
            x = tl.load(row_ptr + column, mask=column < COLUMNS, other=0.0).to(tl.float32)
            x = tl.where(column < V, x, _LOWEST)
            highest = tl.max(x, axis=1)  # (LANES,)
            first = tl.where(highest > top, start, first)
            higher = tl.maximum(highest, top)
            total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher[:, None]), axis=1)
            top = higher
        most = tl.max(top, axis=0)
        lse = most + tl.log(tl.sum(total * tl.exp(top - most), axis=0))
        # The first lane and tile with the maximum, then the first of its columns.
        vector = tl.min(tl.where(top == most, first + tl.arange(0, LANES) * VECTOR, COLUMNS), axis=0)
        near = tl.load(row_ptr + vector + piece, mask=vector + piece < V, other=_LOWEST).to(tl.float32)
        predicted = tl.min(tl.where(near == most, vector + piece, COLUMNS), axis=0)
        target = tl.load(row_ptr + label, mask=label < V, other=0.0).to(tl.float32)
        tl.store(losses_ptr + row, lse - target)
        tl.store(hits_ptr + row, predicted == label)
        tl.store(lse_ptr + row, lse)
    else:
        tl.store(losses_ptr + row, 0.0)
        tl.store(hits_ptr + row, False)
        tl.store(lse_ptr + row, 0.0)


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["labels_ptr"])
def _gradient_kernel(
    logits_ptr, labels_ptr, lse_ptr, partial_ptr,
    rows,
    V: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    counted = column < V
    dbias = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for ahead in range(0, tl.minimum(rows - group * GROUP, GROUP), ROWS):
        row = group * GROUP + ahead + tl.arange(0, ROWS)  # (ROWS,)
        in_rows = row < rows
        label = tl.load(labels_ptr + row, mask=in_rows, other=-1)
        lse = tl.load(lse_ptr + row, mask=in_rows, other=0.0)
        place = logits_ptr + row[:, None] * COLUMNS + column[None, :]
        mask = in_rows[:, None] & (column < COLUMNS)[None, :]
        x = tl.load(place, mask=mask, other=0.0).to(tl.float32)  # (ROWS, BLOCK)
        gradient = tl.exp(x - lse[:, None]) - (column[None, :] == label[:, None]).to(tl.float32)
        gradient = tl.where(counted[None, :] & (label >= 0)[:, None], gradient, 0.0)
        tl.store(place, gradient.to(logits_ptr.dtype.element_ty), mask=mask)
        if HAS_BIAS:
            dbias += gradient
    if HAS_BIAS:
        tl.store(partial_ptr + group * V + column, tl.sum(dbias, axis=0), mask=counted)


def _row_pass(
    logits: Tensor,
    labels: Tensor,
    losses: Tensor,
    hits: Tensor,
    dbias: Tensor | None,
    *,
    vocabulary: int,
    with_gradients: bool,
) -> None:
    """See `chunks.RowPass`."""
    rows, columns = logits.shape
    lse = losses.new_empty(rows)
    with device_guard(logits):
        _statistics_kernel[(rows,)](
            logits_ptr=logits,
            labels_ptr=labels,
            losses_ptr=losses,
            hits_ptr=hits,
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
        parts = None if dbias is None else losses.new_empty((groups, vocabulary))
        _gradient_kernel[(triton.cdiv(columns, _TILE_COLUMNS), groups)](
            logits_ptr=logits,
            labels_ptr=labels,
            lse_ptr=lse,
            partial_ptr=parts,
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
    if dbias is not None and parts is not None:
        dbias += parts.sum(0)


forward = partial(chunks.forward, _row_pass, "triton")
backward = partial(chunks.backward, "triton")
