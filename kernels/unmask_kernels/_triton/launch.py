"""Launch rules: the tile of a row kernel, the size of a persistent grid, the device to launch on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["OPTIONS", "RowTile", "device_guard", "few_programs", "persistent_programs", "row_tile"]

OPTIONS = {"enable_fp_fusion": True}
"""Of every launch: a product and the sum it goes into are one instruction, which Triton 3.10 has to be asked for."""

# Under the interpreter a few programs are enough to walk every path of a persistent loop.
_INTERPRETED_PROGRAMS = 3
_caps: list[int] = []


class RowTile(NamedTuple):
    """Rows of one program and the power of two that covers a row."""

    rows: int
    block: int
    warps: int


def row_tile(width: int, per_thread: int) -> RowTile:
    """Rows and warps of a program in which a thread holds `per_thread` elements of a tile.

    At least 4 warps, which share rows up to 128 * per_thread wide, and at most 32; eight elements are one load of
    16 bytes in 16-bit types. A block has at least 16 columns, so that a group of eight dropout lanes is whole.
    """
    block = max(16, 1 << (width - 1).bit_length())
    warps = min(32, max(4, block // (32 * per_thread)))
    return RowTile(max(1, 32 * per_thread * warps // block), block, warps)


def persistent_programs(x: Tensor, tiles: int, per_multiprocessor: int) -> int:
    """Programs of a grid whose members loop over `tiles`: at most `per_multiprocessor` on each SM, at least one."""
    if x.device.type != "cuda":
        return max(1, min(tiles, _INTERPRETED_PROGRAMS, *_caps))
    limit = torch.cuda.get_device_properties(x.device).multi_processor_count * per_multiprocessor
    return max(1, min(tiles, limit, *_caps))


@contextmanager
def few_programs(at_most: int) -> Iterator[None]:
    """Inside the block persistent grids have `at_most` programs, so that each loops even over the work of a small test.

    A GPU starts hundreds, which small tests never fill: only so does a program take a second tile there.
    """
    _caps.append(at_most)
    try:
        yield
    finally:
        _caps.pop()


def device_guard(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device: make it the device of `x`."""
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)
