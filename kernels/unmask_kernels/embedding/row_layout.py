"""How embedded rows lie in the registers of a program, and how their dropout bitmask lies in memory.

The backward loads the bitmask of a row at once. A lane of its program has 4 columns in every part of the row. Their
bits are half a byte in each byte of one integer, which two neighbouring lanes share:

    bitmask (T, block / 8), integers of at least as many bytes as a row has parts; block columns in a part
    byte k of integer q: columns k block + 8 q to k block + 8 q + 7
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..row_tile import RowTile

__all__ = ["Bitmask", "backward_tile", "bitmask_layout", "forward_tile"]

_DTYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Bitmask(NamedTuple):
    """The integers that hold the bits of a row.

    Attributes:
        integers: their number.
        bytes: bytes of each.
    """

    integers: int
    bytes: int

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of each integer."""
        return _DTYPES[self.bytes]


def forward_tile(width: int) -> RowTile:
    """Eight columns a lane in each part, one call of Philox. Up to 1,024 columns have one warp.

    Narrow rows share a warp. They have parts of 128 columns if those waste fewer.
    """
    power = _power(width)
    warps = max(1, power // 512) if power > 1024 else 1
    block = min(256 * warps, power)
    if width <= 512 and -(-width // 128) % 2:
        block = min(128, power)
    parts = -(-width // block)
    return RowTile(parts=parts, block=block, rows=_power_below(1024 // (parts * block)), warps=warps)


def backward_tile(width: int, itemsize: int) -> RowTile:
    """Four columns a lane in each part. With dy in 16 bits, one warp holds 768 columns beside their sums."""
    power = _power(width)
    warps = 1 if width <= 768 and itemsize < 4 else max(1, power // 512)
    block = min(128 * warps, power)
    return RowTile(parts=-(-width // block), block=block, rows=1, warps=warps)


def bitmask_layout(width: int, itemsize: int) -> Bitmask:
    """The bitmask of rows of `width` columns, whose gradients have elements of `itemsize` bytes."""
    tile = backward_tile(width, itemsize)
    return Bitmask(integers=tile.block // 8, bytes=1 << (tile.parts - 1).bit_length())


def _power(width: int) -> int:
    """The power of two that covers a row, at least 16: groups of eight columns are whole."""
    return max(16, 1 << (width - 1).bit_length())


def _power_below(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)
