"""Triton embedding: the forward in one pass over rows, the backward in two, between two small launches.

    forward      `_triton_forward`: gather, add, normalise, drop
    backward     `_triton_lists`: what is to be sorted and counted, and the sort
                 `_triton_words`: in the order of ids: dword, dweight, dbias, and two numbers a row
                 `_triton_places`: in the order of places: dposition, dsegment
                 `_triton_rest`: what programs left to be added up, and zeros

Both passes of the backward read dy and form dh in registers, where it would cost three times its 4 D bytes a token to
write it once and read it in either order. The rows of h are gathered again instead of being saved.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from unmask_kernels._triton.launch import OPTIONS, device_guard, persistent_programs

from . import parts
from ._triton_forward import forward
from ._triton_lists import make_lists
from ._triton_places import places_kernel
from ._triton_rest import rest_kernel
from ._triton_words import words_kernel
from .arguments import Arguments

__all__ = ["backward", "forward"]

_WARPS_PER_MULTIPROCESSOR = 8  # with 255 registers a thread, the most that one can have
_SHORTEST_CHUNK = 8
_PARTS_AND_SEGMENTS = 12  # parts of a row times segments whose sums a program of the pass by place holds
_REST_ROWS, _REST_COLUMNS, _REST_NARROW, _REST_WARPS = 16, 256, 64, 4


def backward(
    dy: Tensor,
    ids: Tensor,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    keep: Tensor,
    arguments: Arguments,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dword (V, D), dposition (P, D), dsegment (N, D), dweight (D,), dbias (D,)."""
    tables = (word, position, segment, weight, weight)
    if len(dy) == 0:
        dword, dposition, dsegment, dweight, dbias = (torch.zeros_like(table) for table in tables)
        return dword, dposition, dsegment, dweight, dbias
    dword, dposition, dsegment, dweight, dbias = (
        torch.empty_like(table, memory_format=torch.contiguous_format) for table in tables
    )
    rows, cols = dy.shape
    row = parts.of_backward(cols, dy.element_size())
    programs = persistent_programs(
        dy, triton.cdiv(rows, _SHORTEST_CHUNK), max(1, _WARPS_PER_MULTIPROCESSOR // row.warps)
    )
    chunk = triton.cdiv(rows, programs)
    programs = triton.cdiv(rows, chunk)
    segments = None if arguments.segments is None else arguments.segments.contiguous()
    added = 1 if segments is None else len(segment)
    split = triton.cdiv(row.parts, _PARTS_AND_SEGMENTS // added)
    ids = ids.contiguous()
    slope, offset = torch.empty_like(mean), torch.empty_like(mean)
    word_shared, word_sums, place_shared = (word.new_empty((programs, 2, cols)) for _ in range(3))
    place_sums = word.new_empty((programs, added, cols))
    shared: dict[str, Any] = {
        "dy_ptr": dy.contiguous(),
        "segments_ptr": segments,
        "word_ptr": word.contiguous(),
        "position_ptr": position.contiguous(),
        "segment_ptr": segment.contiguous(),
        "weight_ptr": weight.contiguous(),
        "rstd_ptr": rstd,
        "slope_ptr": slope,
        "offset_ptr": offset,
        "bits_ptr": keep,
        "rows": rows,
        "chunk": chunk,
        "scale": 1.0 / (1.0 - arguments.p),
        "COLS": cols,
        "HAS_SEGMENTS": segments is not None,
        "HAS_DROPOUT": arguments.p > 0.0,
        "BLOCK": row.block,
        "num_warps": row.warps,
        "maxnreg": 255,  # else the assembler spills a few values for occupancy
        **OPTIONS,
    }
    with device_guard(word):
        lists = make_lists(ids, arguments, len(word), len(position))
        words_kernel[(programs,)](
            sorted_ptr=lists.ids,
            order_ptr=lists.tokens,
            places_ptr=arguments.places,
            mean_ptr=mean,
            dword_ptr=dword,
            runs_ptr=lists.runs,
            shared_ptr=word_shared,
            sums_ptr=word_sums,
            LEAST=lists.least,
            PARTS=row.parts,
            **shared,
        )
        places_kernel[(programs, split)](
            ids_ptr=ids,
            starts_ptr=lists.starts,
            before_ptr=lists.before,
            dposition_ptr=dposition,
            shared_ptr=place_shared,
            sums_ptr=place_sums,
            places=len(position),
            SEGMENTS=added,
            PARTS=triton.cdiv(row.parts, split),
            SPLIT=split,
            **shared,
        )
        blocks = triton.cdiv(len(position), _REST_ROWS) + triton.cdiv(len(word), _REST_ROWS)
        sums = (2 + len(segment)) * triton.cdiv(cols, _REST_NARROW)
        rest_kernel[(sums + blocks * triton.cdiv(cols, _REST_COLUMNS),)](
            dword_ptr=dword,
            runs_ptr=lists.runs,
            word_shared_ptr=word_shared,
            word_sums_ptr=word_sums,
            dposition_ptr=dposition,
            before_ptr=lists.before,
            place_shared_ptr=place_shared,
            place_sums_ptr=place_sums,
            dweight_ptr=dweight,
            dbias_ptr=dbias,
            dsegment_ptr=dsegment,
            words=len(word),
            places=len(position),
            chunk=chunk,
            chunks=programs,
            COLS=cols,
            ADDED=added,
            SEGMENTS=len(segment),
            ROWS=_REST_ROWS,
            BLOCK=_REST_COLUMNS,
            NARROW=_REST_NARROW,
            num_warps=_REST_WARPS,
            **OPTIONS,
        )
    return dword, dposition, dsegment, dweight, dbias
