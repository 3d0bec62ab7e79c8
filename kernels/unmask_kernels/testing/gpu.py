"""What only a GPU can show of any call: that it never waits for the device, and that a CUDA graph holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["captured", "no_waiting"]

_Results = TypeVar("_Results")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any call inside that waits for the device raises; compile and allocate before."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def captured(call: Callable[[], _Results]) -> tuple[torch.cuda.CUDAGraph, _Results]:
    """A graph of the call, and its results, which every replay writes anew from what its inputs then hold.

    The call runs twice on a side stream first, where kernels are compiled and libraries make their workspaces.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph, results
