"""Checks that need a GPU: a call never waits for the device, and a CUDA graph can replay it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["captured", "no_waiting"]

_Results = TypeVar("_Results")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Make every call inside the block raise if it waits for the device; compile and allocate before."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def captured(call: Callable[[], _Results]) -> tuple[torch.cuda.CUDAGraph, _Results]:
    """Capture a call in a CUDA graph.

    The call runs twice on a side stream first, where kernels are compiled and libraries allocate their workspaces.

    Returns:
        The graph, and the results of the call. Every replay computes the results anew from the inputs' current values.
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
