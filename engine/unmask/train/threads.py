"""Threads on a busy machine: whether other programs leave a core for each thread of PyTorch.

Threads that share a core wait for one another at the end of every operation. Ten steps that take a minute with one
thread took six minutes with two, on two cores with a load of 6. A container may also have less time on the CPU than the
machine has cores, and PyTorch starts a thread for each core.

    free    = cores - load of other programs
    notice    if free < threads - 1/2
"""

import math
import os
import time
from contextlib import suppress
from pathlib import Path

import torch

from unmask.config import EncoderConfig

__all__ = ["CrowdWatch", "have_a_core_each", "step_shape", "usable_cores"]

_CGROUPS = Path("/sys/fs/cgroup")
# the load that the system tells is a mean over this many seconds, weighted to the present
_LOAD_SECONDS = 60.0
_LOOK_SECONDS = 30.0
_IMPORTED = time.monotonic()


def usable_cores() -> float:
    """Return the cores that this process may use: those of its affinity, and no more than its container has."""
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:
        cores = float(os.cpu_count() or 1)
    return min(cores, _container_limit())


def have_a_core_each(threads: object) -> bool:
    """Return whether this process may use a core for each of so many threads; False for what is no such number."""
    return type(threads) is int and 1 <= threads <= usable_cores()


def step_shape(model: EncoderConfig, dtype: torch.dtype) -> str:
    """Return what the best number of threads is told for by `unmask tune`: the sizes of the products of a step."""
    sizes = f"{model.hidden_size} and {model.intermediate_size} wide, heads of {model.head_dim}"
    return f"{sizes}, {str(dtype).removeprefix('torch.')}"


class CrowdWatch:
    """Tells once if other programs leave fewer cores than PyTorch has threads.

    The system's load counts this process too. So the same mean of the time that this process spent on the CPU is taken
    off it.
    """

    def __init__(self) -> None:
        self._told = False
        self._own = 0.0
        self._seen: tuple[float, float] | None = None

    def look(self, threads: int, *, workers: int = 0, option: str = "--train.threads ") -> str | None:
        """Return a notice for a run with `threads` threads on the CPU; None if they have a core each.

        It is given once. It looks at most once in half a minute.

        Args:
            threads: threads of PyTorch.
            workers: processes of this run that make batches meanwhile.
            option: what sets the threads, to stand before the number in the advice.
        """
        used, now = sum(os.times()[:4]), time.monotonic()
        before, then = self._seen or (0.0, _IMPORTED)
        if self._told or threads < 2 or (self._seen is not None and now - then < _LOOK_SECONDS):
            return None
        self._seen = used, now
        stays = math.exp((then - now) / _LOAD_SECONDS)
        self._own = self._own * stays + (used - before) / max(now - then, 1e-9) * (1.0 - stays)
        load = 0.0
        with suppress(OSError):
            load = os.getloadavg()[0]
        cores, others = usable_cores(), max(0.0, load - self._own - workers)
        free = cores - others
        if free >= threads - 0.5:
            return None
        self._told = True
        fewer = max(1, int(free + 0.5))
        return (
            f"PyTorch has {threads} threads, but {cores:g} cores are here and other programs want {others:.1f}, so the "
            f"threads wait for one another; {option}{fewer} may be several times as fast"
        )


def _container_limit() -> float:
    """Return the cores that the control group of a container grants; inf without a limit."""
    # version 2, then version 1
    with suppress(OSError, ValueError):
        quota, period = (_CGROUPS / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((_CGROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    return math.inf
