"""How an embedded row lies in the registers of a program, in parts, and its bits of dropout in memory.

The bits of dropout lie in memory as the backward reads them: lane l of a row has 4 columns in every part, of which the
bits are half a byte in each byte of one word, that a neighbour shares:

    keep (T, BLOCK / 8), words of as many bytes as there are parts, or more       byte k of word q: columns
                                                                                  k BLOCK + 8 q to k BLOCK + 8 q + 7
"""

from __future__ import annotations

import torch

from unmask_kernels.row_tile import RowTile

__all__ = ["keep_shape", "of_backward", "of_forward"]

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def of_forward(width: int) -> RowTile:
    """Eight columns a lane in each part, which one call of Philox serves; up to 1,024 columns have one warp.

    Narrow rows have parts of 128 columns where they waste less, and share a warp.
    """
    power = _power(width)
    warps = max(1, power // 512) if power > 1024 else 1
    block = min(256 * warps, power)
    if width <= 512 and -(-width // 128) % 2:
        block = min(128, power)
    count = -(-width // block)
    return RowTile(count, block, _power_below(1024 // (count * block)), warps)


def of_backward(width: int, itemsize: int) -> RowTile:
    """Four columns a lane in each part; one warp holds 768 columns beside their sums, with dy in 16 bits."""
    power = _power(width)
    warps = 1 if width <= 768 and itemsize < 4 else max(1, power // 512)
    block = min(128 * warps, power)
    return RowTile(-(-width // block), block, 1, warps)


def keep_shape(width: int, itemsize: int) -> tuple[int, torch.dtype]:
    """Words of a row's dropout bits, and their dtype."""
    parts = of_backward(width, itemsize)
    return parts.block // 8, _WORDS[1 << (parts.parts - 1).bit_length()]


def _power(width: int) -> int:
    """The power of two that covers a row, at least 16: groups of eight columns are whole."""
    return max(16, 1 << (width - 1).bit_length())


def _power_below(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)
