"""distill in Triton: the launches; `_triton_score`, `_triton_relation` and `_triton_rows` have the kernels.

The score loss of documents over `GRAM_FROM` tokens is made of Gram matrices, O(s K^2) operations for a document and
head. Shorter documents, those of a band and heads too wide for registers go tile by tile. docs/kernels/distill.md has
the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from .. import capability
from .._triton.launch import OPTIONS, device_guard, persistent_programs
from ..documents import BOUNDS, TILE_ROWS, TILES_HEAD
from ..product import grad_weight
from ._triton_pairs import Tile
from ._triton_relation import columns_kernel, rows_kernel
from ._triton_rows import hidden_kernel, prediction_kernel
from ._triton_score import gram_kernel, tiles_kernel
from .arguments import (
    HiddenArguments,
    HiddenResults,
    PairArguments,
    PairResults,
    PredictionArguments,
    PredictionResults,
)
from .choice import GRAM_FROM

__all__ = ["hidden_forward", "prediction_forward", "relation_forward", "score_forward"]

_WIDEST_GRAM = 64
_NARROWEST = 16
# tensor cores of these read operands from registers, those of sm_90 and sm_100 from shared memory
_FROM_REGISTERS = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_120", "sm_121")
_NOTHING_HIDDEN = 1 << 30
_TILE_ROWS, _TILE_COLUMNS, _GROUP = 4, 512, 64
_LONGEST_BLOCK = 1024


def score_forward(arguments: PairArguments) -> PairResults:
    """The score loss and its gradients."""
    q, wanted = arguments.student_q, arguments.with_gradients
    dq, dk = (_kept(x, wanted) for x in (q, arguments.student_k))
    if len(q) == 0:
        return PairResults(q.new_zeros((), dtype=torch.float32), dq, dk)
    tile, options = _tile(arguments)
    parts = TILE_ROWS // tile.rows
    slots, lines = len(arguments.factors), len(arguments.tiles) - TILES_HEAD
    narrow = max(tile.width, tile.teacher_width) <= _WIDEST_GRAM
    by_gram = arguments.max_seqlen > GRAM_FROM and narrow and not tile.banded
    shared = _shared(arguments, tile) | {"dq_ptr": dq, "dk_ptr": dk, "WITH_GRADIENTS": wanted}
    left, right = shared.pop("left"), shared.pop("right")
    items, documents = (lines - slots) * tile.heads * parts, slots * tile.heads
    losses = q.new_zeros((items + documents * by_gram,), dtype=torch.float32)
    todo = q.new_ones((slots, tile.heads), dtype=torch.int32) if by_gram else None
    with device_guard(q):
        if by_gram:
            programs = persistent_programs(q, documents, 1)
            gram_kernel[(programs,)](
                losses_ptr=losses[items:],
                todo_ptr=todo,
                scratch_ptr=q.new_empty(
                    (programs, 2, tile.width + tile.teacher_width, tile.width), dtype=torch.float32
                ),
                lower=BOUNDS.index(GRAM_FROM),
                num_warps=8,
                num_stages=1,
                maxnreg=255,
                **shared,
            )
        tiles_kernel[(persistent_programs(q, items, 2),)](
            losses_ptr=losses, todo_ptr=todo, slots=slots, left=left, right=right, PARTS=parts, **options, **shared
        )
    return PairResults(losses.sum(), dq, dk)


def relation_forward(arguments: PairArguments) -> PairResults:
    """The relation loss and its gradients."""
    q, wanted = arguments.student_q, arguments.with_gradients
    dq, dk = (_kept(x, wanted) for x in (q, arguments.student_k))
    if len(q) == 0:
        return PairResults(q.new_zeros((), dtype=torch.float32), dq, dk)
    tile, options = _tile(arguments)
    parts = TILE_ROWS // tile.rows
    slots, lines = len(arguments.factors), len(arguments.tiles) - TILES_HEAD
    items = (lines - slots) * tile.heads * parts
    losses = q.new_zeros((items,), dtype=torch.float32)
    lse = q.new_empty((2, tile.heads, len(q)) if wanted else (0,), dtype=torch.float32)
    shared = _shared(arguments, tile) | options | {"slots": slots, "tokens": len(q), "lse_ptr": lse, "PARTS": parts}
    programs = persistent_programs(q, items, 2)
    with device_guard(q):
        rows_kernel[(programs,)](losses_ptr=losses, dq_ptr=dq, WITH_GRADIENTS=wanted, **shared)
        if wanted:
            columns_kernel[(programs,)](dk_ptr=dk, **shared)
    return PairResults(losses.sum(), dq, dk)


def hidden_forward(arguments: HiddenArguments) -> HiddenResults:
    """The hidden-state loss and its gradients: the library's products, and a kernel between them."""
    student, teacher, weight, bias, factors, wanted = arguments
    student, teacher = student.contiguous(), teacher.contiguous()
    rows, columns = teacher.shape
    projected = student if weight is None else student @ weight.mT
    dstudent = _kept(student, wanted)
    # the products read 2 f z in the dtype of student, whose range a mean in fp16 leaves
    top = factors.abs().amax() if wanted and weight is not None and student.dtype == torch.float16 and rows else None
    z = None if not wanted else dstudent if weight is None else projected
    groups, blocks = triton.cdiv(rows, _GROUP), triton.cdiv(columns, _TILE_COLUMNS)
    losses = student.new_zeros((groups, blocks), dtype=torch.float32)
    partial = student.new_empty((groups, columns), dtype=torch.float32) if wanted and bias is not None else None
    if teacher.numel() > 0:
        with device_guard(student):
            hidden_kernel[(blocks, groups)](
                x_ptr=projected,
                teacher_ptr=teacher,
                bias_ptr=bias,
                factors_ptr=factors,
                top_ptr=top,
                z_ptr=z,
                partial_ptr=partial,
                losses_ptr=losses,
                rows=rows,
                COLUMNS=columns,
                GROUP=_GROUP,
                ROWS=_TILE_ROWS,
                BLOCK=_TILE_COLUMNS,
                num_warps=4,
                **OPTIONS,
            )
    dweight = student.new_empty((0,), dtype=torch.float32)
    dbias = torch.empty_like(dweight) if partial is None else partial.sum(0)
    if weight is not None and z is not None:
        dstudent = (z @ weight).to(dstudent.dtype)
        dweight = grad_weight(z, student, torch.float32)
        if top is not None:
            dstudent, dweight = dstudent * top, dweight * top
    return HiddenResults(losses.sum(), dstudent, dweight, dbias)


def prediction_forward(arguments: PredictionArguments) -> PredictionResults:
    """The soft cross-entropy and its gradient."""
    student, wanted = arguments.student.contiguous(), arguments.with_gradients
    rows, columns = student.shape
    dstudent = _kept(student, wanted)
    losses = student.new_empty((rows,), dtype=torch.float32)
    if rows > 0:
        block = min(_LONGEST_BLOCK, max(_NARROWEST, triton.next_power_of_2(columns)))
        with device_guard(student):
            prediction_kernel[(rows,)](
                student_ptr=student,
                teacher_ptr=arguments.teacher.contiguous(),
                factors_ptr=arguments.factors,
                losses_ptr=losses,
                out_ptr=dstudent if wanted else None,
                columns=columns,
                inverse_temperature=1.0 / arguments.temperature,
                BLOCK=block,
                num_warps=4 if block > 256 else 1,
                **OPTIONS,
            )
    return PredictionResults(losses.sum(), dstudent)


def _kept(x: Tensor, wanted: bool) -> Tensor:
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    return x.new_empty(x.shape if wanted else (0,), dtype=dtype)


def _tile(arguments: PairArguments) -> tuple[Tile, dict[str, Any]]:
    """The tile of scores, and the options of a launch; nothing spills with Triton 3.6.0 and 3.9.0."""
    _, heads, head_dim = arguments.student_q.shape
    teacher_dim = arguments.teacher_q.shape[2]
    narrow = arguments.student_q.dtype != torch.float32
    tile = Tile(
        rows=64 if narrow else 32,
        heads=heads,
        width=max(_NARROWEST, triton.next_power_of_2(head_dim)),
        head_dim=head_dim,
        teacher_width=max(_NARROWEST, triton.next_power_of_2(teacher_dim)),
        teacher_dim=teacher_dim,
        banded=arguments.causal or arguments.window >= 0,
        split=narrow,
    )
    wide = max(tile.width, tile.teacher_width) > _WIDEST_GRAM
    # a second stage spills where loads of fewer bytes take more addresses
    prefetched = narrow and not wide and head_dim % 8 == 0 and teacher_dim % 8 == 0
    from_registers = capability.architecture(arguments.student_q) in _FROM_REGISTERS
    warps = 8 if wide or (narrow and from_registers) else 4
    return tile, {"num_warps": warps, "num_stages": 2 if prefetched else 1, "maxnreg": 255}


def _shared(arguments: PairArguments, tile: Tile) -> dict[str, Any]:
    """The arguments that the kernels of pairs have in common."""
    window = _NOTHING_HIDDEN if arguments.window < 0 else arguments.window
    shared: dict[str, Any] = {
        "factors_ptr": arguments.factors,
        "tiles_ptr": arguments.tiles,
        "student_scale": arguments.student_scale,
        "teacher_scale": arguments.teacher_scale,
        "left": window,
        "right": 0 if arguments.causal else window,
        "HEAD_LINES": TILES_HEAD,
        "TILE": tile,
        **OPTIONS,
    }
    for name, x in (
        ("q", arguments.student_q),
        ("k", arguments.student_k),
        ("teacher_q", arguments.teacher_q),
        ("teacher_k", arguments.teacher_k),
    ):
        # heads lie one behind the other; rows may be parts of longer ones
        x = x if x.stride(1) == x.shape[2] and x.stride(2) == 1 else x.contiguous()
        shared |= {f"{name}_ptr": x, f"{name}_stride": x.stride(0)}
    return shared
