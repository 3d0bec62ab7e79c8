"""How rows of D columns lie in the registers of a program: in parts, so that 768 columns are not computed as 1,024.

column    0      block     2 block   ...     D
          | part 0 | part 1 | part 2 | part 3 |         each a power of two, as Triton's tensors are
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["RowTile", "row_tile"]


class RowTile(NamedTuple):
    """The rows that a program has at a time.

    Attributes:
        parts: of a row; together they cover it.
        block: columns of a part.
        rows: of the tile.
        warps: of the program, which share the tile.
    """

    parts: int
    block: int
    rows: int
    warps: int


def row_tile(width: int, most: int) -> RowTile:
    """The tile for rows of `width` columns in at most `most` parts.

    A row has three or four parts of a quarter of the next power of two, or two parts of a half if these are more than
    `most`. A thread has eight neighbouring columns of each part: one load of 16 bytes in 16-bit types, and one call of
    Philox. A program has at least 4 warps, which share the rows. A part of more than 256 columns takes several warps a
    row.
    """
    block = max(64, 1 << (width - 1).bit_length()) // 4
    if -(-width // block) > most:
        block *= 2
    warps = max(4, block // 256)
    return RowTile(parts=-(-width // block), block=block, rows=256 * warps // block, warps=warps)
