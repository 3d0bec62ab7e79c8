"""The shape of each kernel's tile: the largest that spills nothing in 16 bits with Triton 3.6.0 and 3.9.0.

Registers decide: drawing dropout takes many, for eight columns of a row at once, words drawn beforehand few, and of a
band the bounds are kept. No warp may repeat what another does: one of sm_80 forms 16 rows of a product, four of sm_90
form 64. A tile that reads words has whole ones, of 32 elements. docs/kernels/attention.md has the registers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unmask_kernels import capability

from .arguments import Arguments

__all__ = ["Tile", "tile"]

# their products read operands from registers, those of sm_90 and sm_100 from shared memory
_FROM_REGISTERS = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_120", "sm_121")


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


def tile(kernel: str, qkv: Tensor, arguments: Arguments, words: Tensor | None) -> Tile:
    """Of "forward", "grad_query", "grad_key_value" or "owner"; `words` where dropout was drawn beforehand."""
    if qkv.dtype == torch.float32:
        return Tile(64, 32, 4, 1) if kernel in ("forward", "grad_query") else Tile(32, 64, 4, 1)
    dropped = arguments.p > 0.0
    drawn = dropped and words is None
    # a band and dropout together leave the fewest registers
    tight = dropped and arguments.banded
    if capability.architecture(qkv) in _FROM_REGISTERS:
        return _from_registers(kernel, qkv.shape[3] > 64, drawn, tight)
    if qkv.shape[3] > 64:
        return _wide(kernel, dropped, drawn)
    if kernel == "grad_query":
        return Tile(128, 64, 8, 2) if dropped or arguments.banded else Tile(128, 64, 8, 2, 2, registers=128)
    if kernel == "grad_key_value":
        return Tile(32 if tight else 64, 128, 8, 2)
    if kernel == "owner":
        return Tile(32 if drawn or tight else 64, 128, 8, 2)
    # half the registers: two programs on a multiprocessor, so that one multiplies while the other exponentiates
    return Tile(128, 64, 8, 2, registers=255) if drawn else Tile(128, 32 if dropped else 64, 8, 2, 2, registers=128)


def _from_registers(kernel: str, wide: bool, drawn: bool, tight: bool) -> Tile:
    if kernel == "owner":
        if tight and not drawn:
            return Tile(32, 32, 2, 2, 4, registers=255)
        return Tile(16 if drawn else 32, 64, 4, 2, 2, registers=255)
    if wide:
        few = kernel == "grad_key_value" and not (drawn or tight)
        return Tile(32, 64, 4, 2, 2) if few else Tile(64, 64, 8, 2)
    if kernel == "forward":
        return Tile(64, 64, 4, 2, 2, registers=255)
    # asked for no limit, the assembler spills to reach two programs on a multiprocessor
    return Tile(128, 32, 8, 2, registers=255) if kernel == "grad_query" else Tile(32, 128, 8, 2, registers=255)


def _wide(kernel: str, dropped: bool, drawn: bool) -> Tile:
    """Heads of more than 64 elements; the owner does not take them."""
    if kernel == "grad_key_value":
        return Tile(32, 64, 8, 2) if drawn else Tile(32, 64, 4, 2, 2)
    # words take the last registers of the forward, drawing those of grad_query
    small = drawn if kernel == "grad_query" else dropped and not drawn
    return Tile(128, 32 if small else 64, 8, 2)
