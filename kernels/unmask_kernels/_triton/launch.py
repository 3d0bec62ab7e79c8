"""Launch rules: the size of a persistent grid, the device to launch on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

__all__ = ["OPTIONS", "device_guard", "few_programs", "persistent_programs"]

OPTIONS = {"enable_fp_fusion": True}
"""Of every launch: a product and the sum it goes into are one instruction, which Triton 3.10 has to be asked for."""

# Under the interpreter a few programs are enough to walk every path of a persistent loop.
_INTERPRETED_PROGRAMS = 3
_caps: list[int] = []


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
