"""Triton attention: which kernel takes which documents, with which tiles, and the launches.

    length               forward                          backward
    up to SHORT_UP_TO    the document in one tile         `_triton_short`: 5 products, one pass
    up to OWNER_UP_TO    tiles of rows, online softmax    `owner_kernel`: 5 products, one program a document and head
    longer               the same                         `grad_query_kernel`, `grad_key_value_kernel`: 7 products

The rule looks at a document's own length only, so a document gives the same bits wherever it is packed. q, k and v are
read where the projection left them, dq, dk and dv written into one (T, 3, H, K). No result depends on timing: each
element is written by one program, in one order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from unmask_kernels import capability, philox
from unmask_kernels._triton.launch import device_guard, persistent_programs
from unmask_kernels.documents import BOUNDS, TILE_ROWS, TILES_HEAD

from ._triton_backward import grad_key_value_kernel, grad_query_kernel, owner_kernel
from ._triton_forward import forward_kernel
from ._triton_short import short_backward_kernel
from .arguments import Arguments

__all__ = ["OWNER_UP_TO", "SHORT_UP_TO", "backward", "forward", "owner_up_to"]

SHORT_UP_TO = 64
OWNER_UP_TO = 512
"""Elements of `BOUNDS`. The owner saves two products in seven and half of the exponentials and random numbers; longer
documents need the parallelism of tiles more."""
WIDEST_OWNER = 64
"""The owner's five products fill the registers: with wider heads it would spill, and documents take the two passes."""

_LOG2_E = 1.4426950408889634
_NOTHING_HIDDEN = 1 << 30
_owner_bound = [OWNER_UP_TO]


class Tile(NamedTuple):
    """Shape of one kernel's tile, its warps and pipeline, programs on a multiprocessor, and registers if limited."""

    rows: int
    columns: int
    warps: int
    stages: int
    programs: int = 1
    registers: int | None = None

    def options(self) -> dict[str, int]:
        """As arguments of a launch."""
        options = {"ROWS": self.rows, "COLUMNS": self.columns, "num_warps": self.warps, "num_stages": self.stages}
        return options if self.registers is None else options | {"maxnreg": self.registers}


def _tile(kernel: str, qkv: Tensor, arguments: Arguments) -> Tile:
    """The largest tile that spills nothing in 16 bits with Triton 3.6.0 and 3.9.0; docs/kernels/attention.md has the
    registers.
    """
    by_rows = kernel in ("forward", "grad_query")
    if qkv.dtype == torch.float32:
        return Tile(64, 32, 4, 1) if by_rows else Tile(32, 64, 4, 1)
    wide, dropped = qkv.shape[3] > 64, arguments.p > 0.0
    if wide:
        return Tile(64, 32 if dropped else 64, 8, 2) if by_rows else Tile(32, 64, 8, 2)
    # their products read operands from registers, those of sm_90 and sm_100 from shared memory
    ampere = capability.architecture(qkv) in ("sm_80", "sm_86", "sm_87", "sm_89", "sm_120", "sm_121")
    if kernel == "forward":
        # half the registers: two programs on a multiprocessor, so that one multiplies while the other exponentiates
        return Tile(128, 64, 8, 2, registers=255) if ampere or dropped else Tile(128, 64, 8, 2, 2, registers=128)
    if kernel == "grad_query":
        # asked for no limit, the assembler spills to reach two programs on a multiprocessor
        return Tile(128, 32, 8, 2, registers=255) if ampere else Tile(128, 64, 8, 2)
    if ampere:
        return Tile(32, 64 if kernel == "owner" else 128, 8, 2, registers=255)
    return Tile(32 if arguments.banded or dropped else 64, 128, 8, 2)


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
    tile = _tile("forward", qkv, arguments)
    parts = TILE_ROWS // tile.rows
    with device_guard(qkv):
        forward_kernel[(persistent_programs(qkv, len(arguments.tiles) * heads * parts, tile.programs),)](
            out_ptr=out,
            lse_ptr=lse,
            bound_long=BOUNDS.index(SHORT_UP_TO),
            bound_short=0,
            slots=len(arguments.keys),
            PARTS=parts,
            SIZE=SHORT_UP_TO,
            **tile.options(),
            restore=1.0 / (1.0 - arguments.p),
            **_shared(qkv, arguments),
        )
    return out, lse


def backward(dout: Tensor, qkv: Tensor, out: Tensor, statistics: Tensor, arguments: Arguments) -> Tensor:
    """dqkv (T, 3, H, K)."""
    qkv = qkv.contiguous()
    dqkv = torch.empty_like(qkv)
    if len(qkv) == 0:
        return dqkv
    kept = 1.0 - arguments.p
    shared = _shared(qkv, arguments)
    shared |= {
        "dout_ptr": dout.contiguous(),
        "lse_ptr": statistics,
        "dqkv_ptr": dqkv,
        "factor_grad": arguments.scale / kept,
    }
    owned = _owner_bound[0] if qkv.shape[3] <= WIDEST_OWNER else SHORT_UP_TO
    with device_guard(qkv):
        _launch_short(qkv, kept, shared)
        if arguments.longest > SHORT_UP_TO:
            shared["delta_ptr"] = torch.empty_like(statistics)
            tile = partial(_tile, qkv=qkv, arguments=arguments)
            if owned > SHORT_UP_TO:
                _launch_owner(qkv, out, kept, owned, arguments.longest, tile("owner"), shared)
            if arguments.longest > owned:
                passes = {"grad_query": tile("grad_query"), "grad_key_value": tile("grad_key_value")}
                _launch_passes(qkv, out, kept, owned, len(arguments.keys), passes, shared)
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
    qkv: Tensor, out: Tensor, kept: float, owned: int, longest: int, tile: Tile, shared: dict[str, Any]
) -> None:
    items = (shared["tiles_ptr"].shape[0] - TILES_HEAD) * qkv.shape[2]
    programs = persistent_programs(qkv, items, tile.programs)
    rows = triton.cdiv(min(owned, longest), tile.rows) * tile.rows
    scratch = qkv.new_empty((programs, rows, shared["BLOCK_K"]), dtype=torch.float32)
    owner_kernel[(programs,)](
        out_ptr=out,
        kept=kept,
        restore=1.0 / kept,
        scratch_ptr=scratch,
        scratch_rows=rows,
        upper=BOUNDS.index(owned),
        lower=BOUNDS.index(SHORT_UP_TO),
        **tile.options(),
        **shared,
    )


def _launch_passes(
    qkv: Tensor, out: Tensor, kept: float, owned: int, slots: int, tiles: dict[str, Tile], shared: dict[str, Any]
) -> None:
    items = (shared["tiles_ptr"].shape[0] - TILES_HEAD - slots) * qkv.shape[2]
    bounds = {"slots": slots, "upper": len(BOUNDS) - 1, "lower": BOUNDS.index(owned)}
    # the first pass writes delta for the second
    for kernel, tile, size, extra in (
        (grad_query_kernel, tiles["grad_query"], tiles["grad_query"].rows, {"out_ptr": out, "kept": kept}),
        (grad_key_value_kernel, tiles["grad_key_value"], tiles["grad_key_value"].columns, {"restore": 1.0 / kept}),
    ):
        parts = TILE_ROWS // size
        programs = persistent_programs(qkv, items * parts, tile.programs)
        kernel[(programs,)](PARTS=parts, **bounds, **tile.options(), **extra, **shared)


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
    }
