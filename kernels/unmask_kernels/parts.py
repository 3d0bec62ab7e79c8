"""How a row of D columns lies in the registers of a program: in parts, so that 768 columns are not computed as 1,024.

column    0      BLOCK     2 BLOCK   ...     D
          | part 0 | part 1 | part 2 | part 3 |         each a power of two, as Triton's tensors are
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Parts", "row_parts"]


class Parts(NamedTuple):
    """Parts of `block` columns that cover a row, rows that a program has at a time, and its warps."""

    number: int
    block: int
    rows: int
    warps: int


def row_parts(width: int, most: int) -> Parts:
    """Three or four parts of a quarter of the next power of two, or two of a half where these are more than `most`.

    A thread has eight neighbouring columns of each part: one load of 16 bytes in 16-bit types, one call of Philox. A
    program has at least 4 warps, which share the rows of a tile; parts above 256 columns take several warps a row.
    """
    block = max(64, 1 << (width - 1).bit_length()) // 4
    if -(-width // block) > most:
        block *= 2
    warps = max(4, block // 256)
    return Parts(-(-width // block), block, 256 * warps // block, warps)
