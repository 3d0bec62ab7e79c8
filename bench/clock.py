"""Measure time: the clock of the device, cold inputs, interleaved rounds.

On a GPU a moment is a CUDA event in the stream, so the difference of two is the device's time. Before each timed call
the clock writes a buffer four times the size of the L2 cache, which makes the inputs cold. Then the GPU spins for about
a millisecond while the host enqueues the call. So the time that Python takes for a launch, several times that of a
small kernel, does not count, unless the call waits for the device. On a CPU a moment is `time.perf_counter()`, and
inputs are as warm as the previous call left them.

Variants are interleaved: a round times each of them once, and each round begins with the next one, so a change of the
clock rate or another process affects all of them alike. pytest-benchmark times one test after the other; `PLAYBACK`,
as its timer, gives it the durations of the interleaved rounds.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

__all__ = ["PLAYBACK", "DeviceClock", "Moment", "Playback", "interleave", "peak_bytes"]

_COLD_BYTES_WITHOUT_L2 = 256 << 20
_HEAD_START = 1 << 21  # cycles
_FEWEST = 5


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in the stream of a GPU; `later - earlier` waits for both and returns seconds."""

    event: torch.cuda.Event

    def __sub__(self, earlier: Moment) -> float:
        self.event.synchronize()
        return earlier.event.elapsed_time(self.event) / 1e3


class DeviceClock:
    """The clock of a device: `clock()` is a moment, the difference of two is seconds.

    Args:
        device: the device.
        of_process: on a CPU, count the seconds that its cores give to this process. So others on the machine do not
            count, but the seconds of all threads add up.
    """

    def __init__(self, device: torch.device | str, *, of_process: bool = False) -> None:
        self.device = torch.device(device)
        self._now = time.process_time if of_process else time.perf_counter
        self._flush: Tensor | None = None
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            size = 4 * getattr(properties, "L2_cache_size", 0) or _COLD_BYTES_WITHOUT_L2
            self._flush = torch.empty(size, dtype=torch.int8, device=self.device)

    def __call__(self) -> float | Moment:
        if self.device.type != "cuda":
            return self._now()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return Moment(event)

    def cold(self) -> None:
        """On a GPU, evict the next call's inputs from the cache, and let the host enqueue the call before it starts."""
        if self._flush is not None:
            self._flush.zero_()
            torch.cuda._sleep(_HEAD_START)

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the device seconds of one call with cold inputs."""
        self.cold()
        start = self()
        call()
        return self() - start  # type: ignore[operator]


def interleave(
    variants: Mapping[str, Callable[[int], object]],
    clock: DeviceClock,
    *,
    rounds: int,
    warmup: int = 2,
    enough: float = math.inf,
) -> dict[str, list[float]]:
    """Time variants side by side, and return the seconds of each in each round.

    Args:
        variants: each is called with the number of the round, from -warmup to rounds - 1, by which it may choose its
            inputs.
        clock: of the device on which they run.
        rounds: timed rounds, at least 1.
        warmup: rounds before them that are not counted, for compilation, allocation, first touch.
        enough: a variant that has taken more than this many seconds, in at least five rounds, skips the rest.
    """
    if rounds < 1:
        raise ValueError(f"interleave: rounds must be at least 1, got {rounds}")
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(-warmup, rounds):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            if len(times[name]) >= _FEWEST and sum(times[name]) > enough:
                continue
            taken = clock.seconds(lambda call=variants[name], at=round_: call(at))  # type: ignore[misc]
            if round_ >= 0:
                times[name].append(taken)
    return times


def peak_bytes(call: Callable[[], object], device: torch.device | str) -> int:
    """Measure the peak memory of a call: the most that PyTorch held on the device, less what it held before.

    On a CPU this adds up the allocations and releases that PyTorch's profiler reports. Memory that a library allocates
    by itself is not counted.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return _peak_bytes_on_host(call)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_bytes_on_host(call: Callable[[], object]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it writes two lines a call to the standard output
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(0, max(held, default=0))


class Playback:
    """A timer that replays known durations: the first of two calls returns 0, the second the next duration."""

    def __init__(self) -> None:
        self._durations: list[float] = []
        self._running = False

    def load(self, durations: list[float]) -> None:
        """Replay these durations from now on, once each."""
        self._durations, self._running = list(durations), False

    def __call__(self) -> float:
        self._running = not self._running
        return 0.0 if self._running else self._durations.pop(0)


PLAYBACK = Playback()
"""The timer of all bench files: `pytestmark = pytest.mark.benchmark(timer=PLAYBACK)`."""
