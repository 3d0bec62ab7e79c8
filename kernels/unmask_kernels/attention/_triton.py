"""Triton attention: which kernel takes which documents, with which tiles, and the launches.

    length               forward                          backward
    up to SHORT_UP_TO    the document in one tile         `_triton_short`: 5 products, one pass
    up to OWNER_UP_TO    tiles of rows, online softmax    `owner_kernel`: 5 products, one program a document and head
    longer               the same                         `grad_query_kernel`, `grad_key_value_kernel`: 7 products

The rule looks at a document's own length only, so a document gives the same bits wherever it is packed. q, k and v are
read where the projection left them, dq, dk and dv written into one (T, 3, H, K). No result depends on timing: each
element is written by one program, in one order. Kernels draw their own dropout; in a block of `dropout_bits` they read
what `_triton_dropout` drew, as far as documents have such words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels._triton.launch import OPTIONS, device_guard, persistent_programs
from unmask_kernels.documents import BOUNDS, TILE_ROWS, TILES_HEAD

from ._triton_backward import grad_key_value_kernel, grad_query_kernel, owner_kernel
from ._triton_dropout import bits_up_to, draw_by_row, draw_for_backward, dropout_bits
from ._triton_forward import forward_kernel
from ._triton_short import short_backward_kernel
from ._triton_sizes import tile
from .arguments import Arguments

__all__ = ["OWNER_UP_TO", "SHORT_UP_TO", "backward", "dropout_bits", "forward", "owner_up_to"]

SHORT_UP_TO = 64
OWNER_UP_TO = 512
"""Elements of `BOUNDS`. The owner saves two products in seven and half of the exponentials and random numbers; longer
documents need the parallelism of tiles more."""
WIDEST_OWNER = 64
"""The owner's five products fill the registers: with wider heads its tiles get so small that the two passes do less."""

_LOG2_E = 1.4426950408889634
_NOTHING_HIDDEN = 1 << 30
_ALL = BOUNDS[-1]
_owner_bound = [OWNER_UP_TO]


@contextmanager
def owner_up_to(length: int) -> Iterator[None]:
    """Inside the block the owner's form of the backward takes documents up to `length`, an element of `BOUNDS`."""
    if length not in BOUNDS or length < SHORT_UP_TO:
        raise ValueError(f"attention: owner_up_to must be one of {BOUNDS[BOUNDS.index(SHORT_UP_TO) :]}, got {length}")
    previous = _owner_bound[0]
    _owner_bound[0] = length
    try:
        yield
    finally:
        _owner_bound[0] = previous


def forward(qkv: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """out (T, H, K) and the base-2 log-sum-exp of the scores, fp32 (H, T)."""
    tokens, _, heads, width = qkv.shape
    qkv = qkv.contiguous()
    out = qkv.new_empty((tokens, heads, width))
    lse = qkv.new_empty((heads, tokens), dtype=torch.float32)
    if tokens == 0:
        return out, lse
    shared = _shared(qkv, arguments) | {"out_ptr": out, "lse_ptr": lse, "slots": len(arguments.keys)}
    with device_guard(qkv):
        drawn = draw_by_row(qkv, arguments)
        for lower, upper, words in _cut(SHORT_UP_TO, _ALL, arguments.max_seqlen, drawn, short=True):
            size = tile("forward", qkv, arguments, words)
            parts = TILE_ROWS // size.rows
            forward_kernel[(persistent_programs(qkv, len(arguments.tiles) * heads * parts, size.programs),)](
                words_ptr=words,
                upper=BOUNDS.index(upper),
                bound_long=BOUNDS.index(lower),
                # short documents are in the launch of the shortest long ones
                bound_short=0 if lower == SHORT_UP_TO else BOUNDS.index(lower),
                PARTS=parts,
                SIZE=SHORT_UP_TO,
                restore=1.0 / (1.0 - arguments.p),
                **size.options(),
                **shared,
            )
    return out, lse


def backward(dout: Tensor, qkv: Tensor, out: Tensor, statistics: Tensor, arguments: Arguments) -> Tensor:
    """dqkv (T, 3, H, K)."""
    qkv = qkv.contiguous()
    dqkv = torch.empty_like(qkv)
    if len(qkv) == 0:
        return dqkv
    kept, max_seqlen = 1.0 - arguments.p, arguments.max_seqlen
    shared = _shared(qkv, arguments) | {
        "dout_ptr": dout.contiguous(),
        "lse_ptr": statistics,
        "dqkv_ptr": dqkv,
        "factor_grad": arguments.scale / kept,
    }
    owned = _owner_bound[0] if qkv.shape[3] <= WIDEST_OWNER else SHORT_UP_TO
    with device_guard(qkv):
        by_row, by_column = draw_for_backward(qkv, arguments, SHORT_UP_TO, owned)
        _launch_short(qkv, kept, shared | {"words_ptr": by_row})
        if max_seqlen > SHORT_UP_TO:
            shared["delta_ptr"] = torch.empty_like(statistics)
            for lower, upper, words in _cut(SHORT_UP_TO, owned, max_seqlen, by_column):
                _launch_owner(qkv, arguments, out, lower, upper, shared | {"words_ptr": words})
            # the first pass writes delta for the second
            for kernel, of_kernel, extra in (
                (grad_query_kernel, by_row, {"out_ptr": out, "kept": kept}),
                (grad_key_value_kernel, by_column, {"restore": 1.0 / kept}),
            ):
                for lower, upper, words in _cut(owned, _ALL, max_seqlen, of_kernel):
                    _launch_pass(kernel, qkv, arguments, lower, upper, shared | extra | {"words_ptr": words})
    return dqkv


def _launch_short(qkv: Tensor, kept: float, shared: dict[str, Any]) -> None:
    items = (shared["tiles_ptr"].shape[0] - TILES_HEAD) * qkv.shape[2]
    short_backward_kernel[(persistent_programs(qkv, items, 2),)](
        upper=BOUNDS.index(SHORT_UP_TO),
        lower=0,
        SIZE=SHORT_UP_TO,
        num_warps=8 if qkv.shape[3] > 64 else 4,
        num_stages=1,
        restore=1.0 / kept,
        **shared,
    )


def _launch_owner(
    qkv: Tensor, arguments: Arguments, out: Tensor, lower: int, upper: int, shared: dict[str, Any]
) -> None:
    size = tile("owner", qkv, arguments, shared["words_ptr"])
    items = (len(arguments.tiles) - TILES_HEAD) * qkv.shape[2]
    programs = persistent_programs(qkv, items, size.programs)
    rows = triton.cdiv(min(upper, arguments.max_seqlen), size.rows) * size.rows
    scratch = qkv.new_empty((programs, rows, shared["BLOCK_K"]), dtype=torch.float32)
    owner_kernel[(programs,)](
        out_ptr=out,
        kept=1.0 - arguments.p,
        restore=1.0 / (1.0 - arguments.p),
        scratch_ptr=scratch,
        scratch_rows=rows,
        upper=BOUNDS.index(upper),
        lower=BOUNDS.index(lower),
        **size.options(),
        **shared,
    )


def _launch_pass(
    kernel: Any, qkv: Tensor, arguments: Arguments, lower: int, upper: int, shared: dict[str, Any]
) -> None:
    by_rows = kernel is grad_query_kernel
    size = tile("grad_query" if by_rows else "grad_key_value", qkv, arguments, shared["words_ptr"])
    slots = len(arguments.keys)
    parts = TILE_ROWS // (size.rows if by_rows else size.columns)
    items = (len(arguments.tiles) - TILES_HEAD - slots) * qkv.shape[2] * parts
    kernel[(persistent_programs(qkv, items, size.programs),)](
        slots=slots,
        upper=BOUNDS.index(upper),
        lower=BOUNDS.index(lower),
        PARTS=parts,
        **size.options(),
        **shared,
    )


def _cut(
    lower: int, upper: int, max_seqlen: int, words: Tensor | None, short: bool = False
) -> list[tuple[int, int, Tensor | None]]:
    """The launches for lengths in (lower, upper], none that no document needs unless it also takes `short` ones.

    Documents without words, longer than those whose dropout is drawn beforehand, have a launch of their own.
    """
    max_seqlen, bound = min(upper, max_seqlen), bits_up_to()
    if words is None or max_seqlen <= bound:
        return [(lower, upper, words)] if short or max_seqlen > lower else []
    if bound <= lower:
        return [(lower, upper, None)]
    return [(bound, upper, None), (lower, bound, words)]


def _shared(qkv: Tensor, arguments: Arguments) -> dict[str, Any]:
    """The arguments that all kernels have in common."""
    if not arguments.scale > 0.0:
        # the running maximum is taken before scores are scaled
        raise ValueError(
            f"attention: backend 'triton' needs a scale above 0, got {arguments.scale}; ask for backend 'torch'"
        )
    back, ahead = (_NOTHING_HIDDEN if side < 0 else side for side in arguments.sides)
    tokens, _, heads, width = qkv.shape
    return {
        "tiles_ptr": arguments.tiles,
        "key_ptr": arguments.key,
        "keys_ptr": None if arguments.key is None else arguments.keys,
        "qkv_ptr": qkv,
        "tokens": tokens,
        "back": back,
        "ahead": ahead,
        "factor": arguments.scale * _LOG2_E,
        "threshold": philox.threshold(arguments.p),
        "HEADS": heads,
        "K": width,
        "BANDED": arguments.banded,
        "HAS_DROPOUT": arguments.p > 0.0,
        "LISTS": TILES_HEAD,
        "BLOCK_K": triton.next_power_of_2(width),
        **OPTIONS,
    }
