"""Triton attention: which kernel takes which documents, with which tiles, and the launches.

    length of a document   forward                         backward
    up to SHORT_UP_TO      one tile                        `short_backward_kernel`, 5 products; also up to 128, where
                                                           its tile fits, see `_short_tiles`
    up to fused_up_to      tiles of rows, online softmax   `fused_backward_kernel`, 5 products
    longer                 the same                        `grad_query_kernel`, `grad_key_value_kernel`, 7 products

The rule looks at a document's own length and at the call, so a document gives the same bits wherever it is packed. q, k
and v are read where the projection left them; dq, dk and dv are written into one (T, 3, H, K). No result depends on
timing: each element is written by one program, in one order. Atomics only count the items that programs have taken.

Tiles are the largest that spill no register in 16 bits with Triton 3.6.0 and 3.9.0. Registers decide: drawing dropout
in the kernel takes many, for eight columns of a row at once; a bitmask takes few; a band takes some for its bounds. No
warp may repeat what another one does: a warp of sm_80 forms 16 rows of a product, and four warps of sm_90 form 64. A
tile that reads a bitmask has whole words of it, 32 elements. docs/kernels/attention.md lists the registers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .. import capability, philox
from .._triton.launch import OPTIONS, device_guard, persistent_programs
from ..documents import BOUNDS, TILE_ROWS, TILES_HEAD
from . import tunables
from ._triton_backward import fused_backward_kernel, grad_key_value_kernel, grad_query_kernel, short_backward_kernel
from ._triton_documents import Tile
from ._triton_dropout import draw, kept_bitmasks
from ._triton_forward import forward_kernel
from .arguments import (
    NARROWEST_TILE,
    SHORT_UP_TO,
    Arguments,
    BackwardArguments,
    Gradients,
    Results,
    bitmask_shape,
    fused_bound,
    is_aligned,
    is_banded,
    is_wide,
    sides,
)

__all__ = ["backward", "forward"]

_TUNED = {"forward": tunables.FORWARD_TILE, "fused": tunables.FUSED_TILE}

_LOG2_E = 1.4426950408889634
_NOTHING_HIDDEN = 1 << 30
_ALL = BOUNDS[-1]
# tensor cores of these read operands from registers, those of sm_90 and sm_100 from shared memory
_FROM_REGISTERS = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_120", "sm_121")


def forward(arguments: Arguments) -> Results:
    """Returns out, the log-sum-exp in base 2, and the bitmasks of dropout that the backward reads."""
    arguments = arguments._replace(qkv=arguments.qkv.contiguous())
    qkv = arguments.qkv
    tokens, _, heads, width = qkv.shape
    out = qkv.new_empty((tokens, heads, width))
    lse = qkv.new_empty((heads, tokens), dtype=torch.float32)
    if tokens == 0:
        return Results(out, lse, qkv.new_empty(bitmask_shape(arguments), dtype=torch.int32))
    shared = _shared(arguments) | {"out_ptr": out, "lse_ptr": lse, "slots": len(arguments.keys)}
    with device_guard(qkv):
        by_row, keep = draw(arguments)
        launches = _launches(SHORT_UP_TO, _ALL, arguments, by_row, takes_short=True)
        tickets = _tickets(qkv, len(launches))
        for lower, upper, bitmask in launches:
            tile = _tile("forward", arguments, bitmask)
            parts = TILE_ROWS // tile.rows
            forward_kernel[(persistent_programs(qkv, len(arguments.tiles) * heads * parts, tile.programs),)](
                bitmask_ptr=bitmask,
                tickets_ptr=next(tickets),
                upper=BOUNDS.index(upper),
                lower=BOUNDS.index(lower),
                # the launch of the shortest long documents takes the short ones too
                lower_short=0 if lower == SHORT_UP_TO else BOUNDS.index(lower),
                PARTS=parts,
                SHORT_TILE=_SHORT_TILE.options(arguments)["TILE"],
                inv_keep=1.0 / (1.0 - arguments.p),
                **tile.options(arguments),
                **shared,
            )
    return Results(out, lse, keep)


def backward(arguments: BackwardArguments) -> Gradients:
    """Returns dqkv."""
    arguments = arguments._replace(qkv=arguments.qkv.contiguous())
    qkv, lse = arguments.qkv, arguments.lse
    dqkv = torch.empty_like(qkv)
    if len(qkv) == 0:
        return Gradients(dqkv)
    keep_probability = 1.0 - arguments.p
    shared = _shared(arguments) | {
        "dout_ptr": arguments.dout.contiguous(),
        "lse_ptr": lse,
        "dqkv_ptr": dqkv,
        "scale_grad": arguments.scale / keep_probability,
    }
    of_query: dict[str, Any] = {"out_ptr": arguments.out, "keep_probability": keep_probability}
    of_key_value: dict[str, Any] = {"inv_keep": 1.0 / keep_probability}
    short_tiles = _short_tiles(arguments)
    short_up_to = short_tiles[-1].rows
    fused_up_to = max(fused_bound(arguments), short_up_to)
    by_row, by_column = kept_bitmasks(arguments)
    with device_guard(qkv):
        _launch_short(short_tiles, arguments, shared | of_key_value | {"bitmask_ptr": by_column})
        fused = _launches(short_up_to, fused_up_to, arguments, by_column)
        of_rows = _launches(fused_up_to, _ALL, arguments, by_row)
        of_columns = _launches(fused_up_to, _ALL, arguments, by_column)
        tickets = _tickets(qkv, len(fused) + len(of_rows) + len(of_columns))
        if arguments.max_seqlen > short_up_to:
            shared["delta_ptr"] = torch.empty_like(lse)
        for lower, upper, bitmask in fused:
            extra = of_query | of_key_value | {"bitmask_ptr": bitmask, "tickets_ptr": next(tickets)}
            _launch_fused(arguments, lower, upper, shared | extra)
        # grad_query_kernel writes delta for grad_key_value_kernel
        for lower, upper, bitmask in of_rows:
            extra = of_query | {"bitmask_ptr": bitmask, "tickets_ptr": next(tickets)}
            _launch_tiles(grad_query_kernel, arguments, lower, upper, shared | extra)
        for lower, upper, bitmask in of_columns:
            extra = of_key_value | {"bitmask_ptr": bitmask, "tickets_ptr": next(tickets)}
            _launch_tiles(grad_key_value_kernel, arguments, lower, upper, shared | extra)
    return Gradients(dqkv)


def _tickets(qkv: Tensor, launches: int) -> Iterator[Tensor]:
    """A counter for each launch whose programs take items by number, int32 (1,), 0 at first; one operation for all."""
    return iter(torch.zeros(launches, dtype=torch.int32, device=qkv.device).split(1) if launches else ())


def _launch_short(tiles: Sequence[TileShape], arguments: BackwardArguments, shared: dict[str, Any]) -> None:
    """A launch for each tile that a document may need."""
    lower = 0
    for tile in tiles:
        if arguments.max_seqlen > lower:
            items = (len(arguments.tiles) - TILES_HEAD) * arguments.qkv.shape[2]
            short_backward_kernel[(persistent_programs(arguments.qkv, items, tile.programs),)](
                upper=BOUNDS.index(tile.rows), lower=BOUNDS.index(lower), **tile.options(arguments), **shared
            )
        lower = tile.rows


def _launch_fused(arguments: BackwardArguments, lower: int, upper: int, shared: dict[str, Any]) -> None:
    qkv = arguments.qkv
    tile = _tile("fused", arguments, shared["bitmask_ptr"])
    options = tile.options(arguments)
    items = (len(arguments.tiles) - TILES_HEAD) * qkv.shape[2]
    programs = persistent_programs(qkv, items, tile.programs)
    rows = triton.cdiv(min(upper, arguments.max_seqlen), tile.rows) * tile.rows
    fused_backward_kernel[(programs,)](
        scratch_ptr=qkv.new_empty((programs, rows, options["TILE"].block_k), dtype=torch.float32),
        scratch_rows=rows,
        upper=BOUNDS.index(upper),
        lower=BOUNDS.index(lower),
        **options,
        **shared,
    )


def _launch_tiles(kernel: Any, arguments: BackwardArguments, lower: int, upper: int, shared: dict[str, Any]) -> None:
    of_rows = kernel is grad_query_kernel
    tile = _tile("grad_query" if of_rows else "grad_key_value", arguments, shared["bitmask_ptr"])
    slots = len(arguments.keys)
    parts = TILE_ROWS // (tile.rows if of_rows else tile.columns)
    items = (len(arguments.tiles) - TILES_HEAD - slots) * arguments.qkv.shape[2] * parts
    kernel[(persistent_programs(arguments.qkv, items, tile.programs),)](
        slots=slots,
        upper=BOUNDS.index(upper),
        lower=BOUNDS.index(lower),
        PARTS=parts,
        **tile.options(arguments),
        **shared,
    )


def _launches(
    lower: int, upper: int, arguments: Arguments | BackwardArguments, bitmask: Tensor | None, takes_short: bool = False
) -> list[tuple[int, int, Tensor | None]]:
    """The launches for lengths in (lower, upper], as (lower, upper, bitmask).

    A launch that no document can need is left out, unless it also takes short documents. Documents that are too long
    for the bitmask have a launch of their own.
    """
    largest, bound = min(upper, arguments.max_seqlen), arguments.bitmask_up_to
    if bitmask is None or largest <= bound:
        return [(lower, upper, bitmask)] if takes_short or largest > lower else []
    if bound <= lower:
        return [(lower, upper, None)]
    return [(bound, upper, None), (lower, bound, bitmask)]


def _shared(arguments: Arguments | BackwardArguments) -> dict[str, Any]:
    """The arguments that all kernels have in common."""
    if not arguments.scale > 0.0:
        # the running maximum is taken before scores are scaled
        raise ValueError(
            f"attention: backend 'triton' needs a scale above 0, got {arguments.scale}; ask for backend 'torch'"
        )
    left, right = (_NOTHING_HIDDEN if side < 0 else side for side in sides(arguments))
    return {
        "tiles_ptr": arguments.tiles,
        "key_ptr": arguments.key,
        "keys_ptr": None if arguments.key is None else arguments.keys,
        "qkv_ptr": arguments.qkv,
        "tokens": len(arguments.qkv),
        "left": left,
        "right": right,
        "scale_log2": arguments.scale * _LOG2_E,
        "threshold": philox.threshold(arguments.p),
        "HEAD_LINES": TILES_HEAD,
        **OPTIONS,
    }


class TileShape(NamedTuple):
    """A kernel's tile of scores, and what goes with it.

    Attributes:
        rows, columns: of the tile.
        warps, stages: of a program, and of its pipeline.
        programs: at a time on a multiprocessor.
        registers: that a thread may have; None: no limit is asked for.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    programs: int = 1
    registers: int | None = None

    def options(self, arguments: Arguments | BackwardArguments) -> dict[str, Any]:
        """The tile and what goes with it, as arguments of a launch."""
        _, _, heads, width = arguments.qkv.shape
        block_k = max(NARROWEST_TILE, triton.next_power_of_2(width))
        tile = Tile(self.rows, self.columns, heads, width, block_k, is_banded(arguments))
        options = {"TILE": tile, "num_warps": self.warps, "num_stages": self.stages}
        return options if self.registers is None else options | {"maxnreg": self.registers}


_SHORT_TILE = TileShape(SHORT_UP_TO, SHORT_UP_TO, warps=4, stages=1, programs=2)


def _short_tiles(arguments: BackwardArguments) -> tuple[TileShape, ...]:
    """The tiles of the backward of short documents, from the smallest: a document has the first that holds it.

    In two stages the next document is fetched while this one is computed.
    """
    qkv = arguments.qkv
    dropped = arguments.p > 0.0
    if qkv.dtype == torch.float32 or not is_aligned(qkv):
        return (TileShape(64, 64, 8 if is_wide(qkv) else 4, 1, 2),)
    if is_wide(qkv):
        # 128 x 128 would take more shared memory than there is
        return (TileShape(64, 64, 8, 2),)
    if capability.architecture(qkv) in _FROM_REGISTERS:
        # 128 x 128 spills hundreds of registers, and two stages spill with dropout
        return (TileShape(64, 64, 4, 1 if dropped else 2, 2),)
    if dropped:
        # drawing spills in 128 x 128, and a bitmask has documents over SHORT_UP_TO tokens by column
        return (TileShape(64, 64, 4, 2, 2 if arguments.bitmask_up_to == 0 else 3),)
    tiles = (TileShape(64, 64, 4, 2, 3, registers=168), TileShape(128, 128, 8, 2))
    here = tunables.shape(qkv.shape[3], qkv.dtype, dropout=False, banded=is_banded(arguments))
    return tiles[:1] if tunables.ONE_TILE_UP_TO.value(here) == SHORT_UP_TO else tiles


def _tile(kernel: str, arguments: Arguments | BackwardArguments, bitmask: Tensor | None) -> TileShape:
    """The tile of "forward", "fused", "grad_query" or "grad_key_value" for this call."""
    qkv = arguments.qkv
    if qkv.dtype == torch.float32:
        return TileShape(64, 32, 4, 1) if kernel in ("forward", "grad_query") else TileShape(32, 64, 4, 1)
    dropped = arguments.p > 0.0
    if kernel in _TUNED:
        here = tunables.shape(qkv.shape[3], qkv.dtype, dropout=dropped, banded=is_banded(arguments))
        text = _TUNED[kernel].value(here)
        if text != "auto":
            rows, columns, warps, stages, programs = map(int, re.findall(r"\d+", text))
            return TileShape(rows, columns, warps, stages, programs)
    drawn = dropped and bitmask is None
    # a band and dropout together leave the fewest registers
    tight = dropped and is_banded(arguments)
    if capability.architecture(qkv) in _FROM_REGISTERS:
        if is_wide(qkv) and not is_aligned(qkv):
            return _tile_of_wide_unaligned_heads(kernel, drawn)
        crowded = tight or (dropped and not is_aligned(qkv))
        return _tile_from_registers(kernel, qkv.shape[3], drawn, crowded)
    if is_wide(qkv):
        return _tile_of_wide_heads(kernel, dropped, drawn)
    if kernel == "grad_query":
        return (
            TileShape(128, 64, 8, 2) if dropped or is_banded(arguments) else TileShape(128, 64, 8, 2, 2, registers=128)
        )
    if kernel == "grad_key_value":
        return TileShape(32 if tight else 64, 128, 8, 2)
    if kernel == "fused":
        return TileShape(32 if drawn or tight else 64, 128, 8, 2)
    if dropped and not is_aligned(qkv):
        return TileShape(128, 64 if drawn else 32, 8, 2, registers=255)
    # half the registers: two programs on a multiprocessor, so that one multiplies while the other exponentiates
    if drawn:
        return TileShape(128, 64, 8, 2, registers=255)
    return TileShape(128, 32 if dropped or not is_aligned(qkv) else 64, 8, 2, 2, 128)


def _tile_from_registers(kernel: str, width: int, drawn: bool, crowded: bool) -> TileShape:
    if kernel == "fused":
        if crowded and not drawn:
            return TileShape(32, 32, 2, 2, 4, registers=255)
        return TileShape(16 if drawn else 32, 64, 4, 2, 2, registers=255)
    if width > 64:
        few = kernel == "grad_key_value" and not (drawn or crowded)
        return TileShape(32, 64, 4, 2, 2) if few else TileShape(64, 64, 8, 2)
    if kernel == "forward":
        # a mask for the end of a head takes the last registers
        return TileShape(64, 32 if crowded and not drawn and width % 32 else 64, 4, 2, 2, registers=255)
    # without a limit the assembler spills to reach two programs on a multiprocessor
    return (
        TileShape(128, 32, 8, 2, registers=255) if kernel == "grad_query" else TileShape(32, 128, 8, 2, registers=255)
    )


def _tile_of_wide_unaligned_heads(kernel: str, drawn: bool) -> TileShape:
    """For sm_80 and its like."""
    if kernel == "forward":
        return TileShape(64, 64, 8, 2, registers=255)
    if kernel == "grad_query":
        return TileShape(64, 32, 4, 2, registers=255)
    return TileShape(16 if drawn else 32, 64, 4, 2, registers=255)


def _tile_of_wide_heads(kernel: str, dropped: bool, drawn: bool) -> TileShape:
    """For heads that the fused backward does not take."""
    if kernel == "grad_key_value":
        return TileShape(32, 64, 8, 2) if drawn else TileShape(32, 64, 4, 2, 2)
    # reading a bitmask takes the last registers of the forward, drawing those of grad_query
    small = drawn if kernel == "grad_query" else dropped and not drawn
    return TileShape(128, 32 if small else 64, 8, 2)
