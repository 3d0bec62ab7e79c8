"""What `unmask tune` may change inside the Triton backend of linear_gelu: its tile in 16 bits."""

from __future__ import annotations

from ..tuned import Tunable

__all__ = ["TILE"]

# rows x columns of the product x columns of x that are multiplied at a time; programs are those of a multiprocessor
TILE = Tunable(
    "linear_gelu.tile",
    "auto",
    "128 x 128 x 32, 4 warps, 4 stages, 2 programs",
    "128 x 128 x 64, 8 warps, 3 stages, 1 program",
    "128 x 256 x 32, 8 warps, 3 stages, 1 program",
    "128 x 256 x 64, 8 warps, 3 stages, 1 program",
    "128 x 256 x 64, 8 warps, 4 stages, 1 program",
)
