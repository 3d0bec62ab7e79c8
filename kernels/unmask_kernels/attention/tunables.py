"""What `unmask tune` may change in attention, and what a value depends on.

    attention.scores          torch on a CPU: elements of a block of scores, about
    attention.cached          torch on a CPU: elements of such a block that are worked on at a time, and stay in cache
    attention.padding         torch on a CPU: percent of the work that padding of groups may add
    attention.one_tile_up_to  triton in 16 bits without dropout: length of a document that is one tile of the backward
    attention.fused_up_to     triton: length up to which documents take the fused backward, see `arguments.schedule`
    attention.bitmask_up_to   triton: length up to which dropout is drawn before, see `arguments.schedule`
    attention.forward_tile    triton in 16 bits: the tile of the forward
    attention.fused_tile      triton in 16 bits: the tile of the fused backward

Results add up in another order, so they agree within the criterion.
"""

from __future__ import annotations

import torch

from ..documents import BOUNDS
from ..tuned import Tunable

__all__ = [
    "BITMASK_UP_TO",
    "CACHED",
    "FORWARD_TILE",
    "FUSED_TILE",
    "FUSED_UP_TO",
    "ONE_TILE_UP_TO",
    "PADDING",
    "SCORES",
    "shape",
]

SCORES = Tunable("attention.scores", 1 << 21, 1 << 19, 1 << 20, 1 << 22)
CACHED = Tunable("attention.cached", 1 << 19, 1 << 17, 1 << 18, 1 << 20)
PADDING = Tunable("attention.padding", 5, 2, 10, 50)
FUSED_UP_TO = Tunable("attention.fused_up_to", 512, 128, 256, BOUNDS[-1])
ONE_TILE_UP_TO = Tunable("attention.one_tile_up_to", 128, 64)
BITMASK_UP_TO = Tunable("attention.bitmask_up_to", 512, 0, 256)

# rows x columns of scores; programs are those of a multiprocessor
FORWARD_TILE = Tunable(
    "attention.forward_tile",
    "auto",
    "64 x 64, 4 warps, 2 stages, 2 programs",
    "64 x 64, 4 warps, 3 stages, 2 programs",
    "128 x 32, 8 warps, 2 stages, 2 programs",
    "128 x 64, 8 warps, 2 stages, 1 program",
    "128 x 64, 8 warps, 3 stages, 1 program",
    "128 x 128, 8 warps, 2 stages, 1 program",
)
FUSED_TILE = Tunable(
    "attention.fused_tile",
    "auto",
    "32 x 64, 4 warps, 2 stages, 2 programs",
    "64 x 64, 4 warps, 2 stages, 1 program",
    "32 x 128, 8 warps, 2 stages, 1 program",
    "64 x 128, 8 warps, 2 stages, 1 program",
)


def shape(head_dim: int, dtype: torch.dtype, *, dropout: bool, banded: bool) -> str:
    """What a value depends on: nothing of it changes with the documents of a batch."""
    name = f"heads of {head_dim}, {str(dtype).removeprefix('torch.')}"
    return name + (", dropout" if dropout else "") + (", banded" if banded else "")
