"""Triton embedding, backward: two kernels over all tokens, a small one before them and one after them.

    prepare         all that is counted or narrowed before; then PyTorch sorts the ids
    grad_word       `_triton_grad_word`, in the order of ids: dword, dweight, dbias, and two numbers a token
    grad_position   `_triton_grad_position`, in the order of positions: dposition, dsegment
    finish          sums that programs share, and zeros for rows that nothing read

Both kernels over the tokens read dy and compute dh in registers. To store dh once and read it in either order would
cost three times its 4 D bytes a token. The rows of h are gathered again instead of being saved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import OPTIONS, device_guard, persistent_programs
from ._triton_grad_position import grad_position_kernel
from ._triton_grad_word import grad_word_kernel
from .arguments import BackwardArguments, Gradients
from .row_layout import backward_tile

__all__ = ["backward"]

_WARPS_PER_MULTIPROCESSOR = 8  # with 255 registers a thread, the most that one can have
_SHORTEST_SPAN = 8
_PARTS_AND_SEGMENTS = 12  # parts of a row times segments whose sums a program of grad_position holds
_IDS_IN_16_BITS = 1 << 16
_PREPARED, _PREPARED_POSITIONS, _PREPARED_DOCUMENTS, _PREPARE_WARPS = 256, 8, 256, 4
_FINISHED_ROWS, _FINISHED_COLUMNS, _FINISHED_SUM, _FINISH_WARPS = 16, 256, 64, 4


@triton.jit(do_not_specialize=["rows", "vocabulary", "documents", "positions"])
def _prepare_kernel(
    ids_ptr, cu_seqlens_ptr, order_ptr, shifted_ids_ptr, runs_ptr, starts_ptr, tokens_before_ptr,
    rows, vocabulary, documents, positions,
    SHIFT: tl.constexpr, BLOCK: tl.constexpr, POSITIONS: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """Write shifted_ids (rows,) = ids + SHIFT, runs (vocabulary, 2) = 0, starts (documents,), tokens_before.

    starts are the first tokens of the documents, from the longest to the shortest. tokens_before (positions + 1,) is
    the number of tokens at smaller positions: the sum over documents of min(length, position).
    Reads ids (rows,), cu_seqlens (documents + 1,) and order (documents,). All but ids and shifted_ids are int32.
    """
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    shifted = tl.load(ids_ptr + at, mask=at < rows, other=0).to(tl.int32) + SHIFT
    tl.store(shifted_ids_ptr + at, shifted.to(shifted_ids_ptr.dtype.element_ty), mask=at < rows)
    run = program * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
    tl.store(runs_ptr + run, tl.zeros((2 * BLOCK,), dtype=tl.int32), mask=run < 2 * vocabulary)
    document = tl.load(order_ptr + at, mask=at < documents, other=0)
    start = tl.load(cu_seqlens_ptr + document, mask=at < documents, other=0)
    tl.store(starts_ptr + at, start, mask=at < documents)
    for first in range(program * POSITIONS, positions + 1, tl.num_programs(0) * POSITIONS):
        position = first + tl.arange(0, POSITIONS)
        total = tl.zeros((POSITIONS, DOCUMENTS), dtype=tl.int32)
        for first_document in range(0, documents, DOCUMENTS):
            document = first_document + tl.arange(0, DOCUMENTS)
            start = tl.load(cu_seqlens_ptr + document, mask=document < documents, other=0)
            end = tl.load(cu_seqlens_ptr + document + 1, mask=document < documents, other=0)
            total += tl.minimum((end - start)[None, :], position[:, None])
        tl.store(tokens_before_ptr + position, tl.sum(total, axis=1), mask=position <= positions)


@triton.jit
def _sum_programs(from_ptr, stride, first, end, col, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr):
    # Sum over the programs `first` to `end` of what each left at the columns col (BLOCK,), ROWS programs at a time.
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for start in range(first, end, ROWS):
        program = start + tl.arange(0, ROWS)
        mask = (program < end)[:, None] & (col < COLS)[None, :]
        total += tl.load(from_ptr + program.to(tl.int64)[:, None] * stride + col[None, :], mask=mask, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _finish_sum(to_ptr, from_ptr, stride, programs, block, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr):
    col = block * BLOCK + tl.arange(0, BLOCK)
    tl.store(to_ptr + col, _sum_programs(from_ptr, stride, 0, programs, col, ROWS, BLOCK, COLS), mask=col < COLS)


@triton.jit
def _finish_rows(
    table_ptr, runs_ptr, partial_ptr, first, rows, span, block,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    # ROWS rows of a table from `first`. The tokens of row r begin at runs[STRIDE * r] and end at runs[STRIDE * r + 1].
    col = block * BLOCK + tl.arange(0, BLOCK)
    row = first + tl.arange(0, ROWS)
    begin = tl.load(runs_ptr + row * STRIDE, mask=row < rows, other=0)
    end = tl.load(runs_ptr + row * STRIDE + 1, mask=row < rows, other=1)
    unread = (begin == end)[:, None] & (col < COLS)[None, :]
    offset = row.to(tl.int64)[:, None] * COLS + col[None, :]
    tl.store(table_ptr + offset, tl.zeros((ROWS, BLOCK), dtype=tl.float32), mask=unread)
    for one in range(first, tl.minimum(first + ROWS, rows)):
        low, high = tl.load(runs_ptr + one * STRIDE), tl.load(runs_ptr + one * STRIDE + 1)
        first_program, last_program = low // span, (high - 1) // span
        if (low < high) & (first_program < last_program):
            head_ptr = partial_ptr + (first_program.to(tl.int64) * 2 + 1) * COLS
            head = tl.load(head_ptr + col, mask=col < COLS, other=0.0)
            rest = _sum_programs(partial_ptr, 2 * COLS, first_program + 1, last_program + 1, col, ROWS, BLOCK, COLS)
            tl.store(table_ptr + tl.cast(one, tl.int64) * COLS + col, head + rest, mask=col < COLS)


@triton.jit(do_not_specialize=["vocabulary", "positions", "span", "programs"])
def _finish_kernel(
    dword_ptr, runs_ptr, word_partial_ptr, norm_sums_ptr,
    dposition_ptr, tokens_before_ptr, position_partial_ptr, segment_sums_ptr,
    dweight_ptr, dbias_ptr, dsegment_ptr,
    vocabulary, positions, span, programs,
    COLS: tl.constexpr, SUMMED: tl.constexpr, SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, SUM_BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up what `programs` programs, each with a span of `span` tokens, left of the tables and vectors.

        program   | sums over programs: dweight, dbias, the rows of dsegment  | rows of dposition | rows of dword |

    A row of dposition (positions, COLS) or dword (vocabulary, COLS) whose tokens lie in several spans is the sum of
    their partial sums (programs, 2, COLS). A row that nothing read is zero. Any other row is there already. dweight,
    dbias (COLS,) add up norm_sums (programs, 2, COLS); the first SUMMED rows of dsegment (SEGMENTS, COLS) add up
    segment_sums (programs, SUMMED, COLS), the others are zero.

    The first programs have most to do, each SUM_BLOCK columns of one sum. The others store, for the most part, 4 D
    bytes for each row of dword whose word does not occur.
    """
    SUM_BLOCKS: tl.constexpr = (COLS + SUM_BLOCK - 1) // SUM_BLOCK
    BLOCKS: tl.constexpr = (COLS + BLOCK - 1) // BLOCK
    SUM_ROWS: tl.constexpr = ROWS * 4
    program = tl.program_id(0)
    sums, sum_block = program // SUM_BLOCKS, program % SUM_BLOCKS
    first_block = program - (2 + SEGMENTS) * SUM_BLOCKS
    block = first_block % BLOCKS
    first = first_block // BLOCKS * ROWS
    of_positions = (positions + ROWS - 1) // ROWS * ROWS
    if sums == 0:
        _finish_sum(dweight_ptr, norm_sums_ptr, 2 * COLS, programs, sum_block, SUM_ROWS, SUM_BLOCK, COLS)
    elif sums == 1:
        _finish_sum(dbias_ptr, norm_sums_ptr + COLS, 2 * COLS, programs, sum_block, SUM_ROWS, SUM_BLOCK, COLS)
    elif first_block < 0:
        row = (sums - 2) * COLS
        terms = tl.where(sums - 2 < SUMMED, programs, 0)
        _finish_sum(
            dsegment_ptr + row, segment_sums_ptr + row, SUMMED * COLS, terms, sum_block, SUM_ROWS, SUM_BLOCK, COLS
        )  # fmt: skip
    elif first < of_positions:
        _finish_rows(
            dposition_ptr, tokens_before_ptr, position_partial_ptr, first, positions, span, block, 1, ROWS, BLOCK, COLS
        )  # fmt: skip
    else:
        first -= of_positions
        _finish_rows(dword_ptr, runs_ptr, word_partial_ptr, first, vocabulary, span, block, 2, ROWS, BLOCK, COLS)


class _Orders(NamedTuple):
    """The two orders of the tokens, by id and by position, and what `_prepare_kernel` writes of them.

    Attributes:
        sorted_ids: (T,), each with `shift` added: int16 if the vocabulary allows it, which halves the sort, else int32.
        tokens: int64 (T,), where each of the sorted ids stands.
        shift: what was added.
        runs, starts, tokens_before: see the kernel.
    """

    sorted_ids: Tensor
    tokens: Tensor
    shift: int
    runs: Tensor
    starts: Tensor
    tokens_before: Tensor


def _prepare(ids: Tensor, arguments: BackwardArguments) -> _Orders:
    """The orders of at least one token."""
    order, vocabulary, positions = arguments.order, len(arguments.word), len(arguments.position)
    narrow = vocabulary <= _IDS_IN_16_BITS
    shift = -(1 << 15) if narrow else 0
    shifted_ids = torch.empty_like(ids, dtype=torch.int16 if narrow else torch.int32)
    runs = order.new_empty((vocabulary, 2))
    starts = torch.empty_like(order)
    tokens_before = order.new_empty(positions + 1)
    _prepare_kernel[(triton.cdiv(max(len(ids), vocabulary, len(starts)), _PREPARED),)](
        ids_ptr=ids,
        cu_seqlens_ptr=arguments.cu_seqlens,
        order_ptr=order,
        shifted_ids_ptr=shifted_ids,
        runs_ptr=runs,
        starts_ptr=starts,
        tokens_before_ptr=tokens_before,
        rows=len(ids),
        vocabulary=vocabulary,
        documents=len(starts),
        positions=positions,
        SHIFT=shift,
        BLOCK=_PREPARED,
        POSITIONS=_PREPARED_POSITIONS,
        DOCUMENTS=_PREPARED_DOCUMENTS,
        num_warps=_PREPARE_WARPS,
        **OPTIONS,
    )
    sorted_ids, tokens = torch.sort(shifted_ids, stable=True)
    return _Orders(sorted_ids, tokens, shift, runs, starts, tokens_before)


def backward(arguments: BackwardArguments) -> Gradients:
    """Launch the four kernels and the sort."""
    dy, segments, word, position, segment = (
        arguments.dy, arguments.segments, arguments.word, arguments.position, arguments.segment,
    )  # fmt: skip
    tables = (word, position, segment, arguments.weight, arguments.weight)
    if len(dy) == 0:
        return Gradients(*(torch.zeros_like(table) for table in tables))
    gradients = Gradients(*(torch.empty_like(table, memory_format=torch.contiguous_format) for table in tables))
    rows, cols = dy.shape
    tile = backward_tile(cols, dy.element_size())
    programs = persistent_programs(
        dy, triton.cdiv(rows, _SHORTEST_SPAN), max(1, _WARPS_PER_MULTIPROCESSOR // tile.warps)
    )
    span = triton.cdiv(rows, programs)
    programs = triton.cdiv(rows, span)
    summed = 1 if segments is None else len(segment)
    split = triton.cdiv(tile.parts, _PARTS_AND_SEGMENTS // summed)
    ids = arguments.ids.contiguous()
    slope, offset = torch.empty_like(arguments.mean), torch.empty_like(arguments.mean)
    word_partial, norm_sums, position_partial = (word.new_empty((programs, 2, cols)) for _ in range(3))
    segment_sums = word.new_empty((programs, summed, cols))
    shared: dict[str, Any] = {
        "dy_ptr": dy.contiguous(),
        "segments_ptr": None if segments is None else segments.contiguous(),
        "word_ptr": word.contiguous(),
        "position_ptr": position.contiguous(),
        "segment_ptr": segment.contiguous(),
        "weight_ptr": arguments.weight.contiguous(),
        "rstd_ptr": arguments.rstd,
        "slope_ptr": slope,
        "offset_ptr": offset,
        "bitmask_ptr": arguments.keep if arguments.p > 0.0 else None,
        "rows": rows,
        "span": span,
        "scale": 1.0 / (1.0 - arguments.p),
        "COLS": cols,
        "num_warps": tile.warps,
        "maxnreg": 255,  # else the assembler spills a few values for occupancy
        **OPTIONS,
    }
    with device_guard(word):
        orders = _prepare(ids, arguments)
        grad_word_kernel[(programs,)](
            sorted_ids_ptr=orders.sorted_ids,
            tokens_ptr=orders.tokens,
            positions_ptr=arguments.positions,
            mean_ptr=arguments.mean,
            dword_ptr=gradients.dword,
            runs_ptr=orders.runs,
            partial_ptr=word_partial,
            norm_sums_ptr=norm_sums,
            SHIFT=orders.shift,
            TILE=tile,
            **shared,
        )
        grad_position_kernel[(programs, split)](
            ids_ptr=ids,
            starts_ptr=orders.starts,
            tokens_before_ptr=orders.tokens_before,
            dposition_ptr=gradients.dposition,
            partial_ptr=position_partial,
            segment_sums_ptr=segment_sums,
            positions=len(position),
            SEGMENTS=summed,
            TILE=tile._replace(parts=triton.cdiv(tile.parts, split)),
            SPLIT=split,
            **shared,
        )
        sums = (2 + len(segment)) * triton.cdiv(cols, _FINISHED_SUM)
        row_blocks = triton.cdiv(len(position), _FINISHED_ROWS) + triton.cdiv(len(word), _FINISHED_ROWS)
        _finish_kernel[(sums + row_blocks * triton.cdiv(cols, _FINISHED_COLUMNS),)](
            dword_ptr=gradients.dword,
            runs_ptr=orders.runs,
            word_partial_ptr=word_partial,
            norm_sums_ptr=norm_sums,
            dposition_ptr=gradients.dposition,
            tokens_before_ptr=orders.tokens_before,
            position_partial_ptr=position_partial,
            segment_sums_ptr=segment_sums,
            dweight_ptr=gradients.dweight,
            dbias_ptr=gradients.dbias,
            dsegment_ptr=gradients.dsegment,
            vocabulary=len(word),
            positions=len(position),
            span=span,
            programs=programs,
            COLS=cols,
            SUMMED=summed,
            SEGMENTS=len(segment),
            ROWS=_FINISHED_ROWS,
            BLOCK=_FINISHED_COLUMNS,
            SUM_BLOCK=_FINISHED_SUM,
            num_warps=_FINISH_WARPS,
            **OPTIONS,
        )
    return gradients
