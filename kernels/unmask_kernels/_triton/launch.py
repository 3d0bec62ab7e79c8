"""Launch rules: the size of a persistent grid, the device to launch on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["MOST_PROGRAMS", "OPTIONS", "device_guard", "persistent_programs"]

OPTIONS = {"enable_fp_fusion": True}
"""Options of every launch: a product and the sum that it goes into are one instruction. Triton 3.10 has to be asked."""

# Under the interpreter a few programs are enough to walk every path of a persistent loop.
_INTERPRETED_PROGRAMS = 3

MOST_PROGRAMS = 1 << 31
"""The most programs of a persistent grid. Tests lower it: only then does a program take a second tile in a small test.

It is no context variable, since the backward reads it on the threads of autograd, which have a context of their own.
"""


def persistent_programs(x: Tensor, tiles: int, per_multiprocessor: int) -> int:
    """The programs of a grid whose members loop over `tiles`: at most `per_multiprocessor` on each SM, at least one."""
    limit = _INTERPRETED_PROGRAMS
    if x.device.type == "cuda":
        limit = torch.cuda.get_device_properties(x.device).multi_processor_count * per_multiprocessor
    return max(1, min(tiles, limit, MOST_PROGRAMS))


def device_guard(x: Tensor) -> AbstractContextManager[object]:
    """A context in which the device of `x` is the current one, on which Triton launches."""
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)
