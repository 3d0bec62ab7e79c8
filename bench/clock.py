"""How time is taken: a clock of the device, cold inputs, interleaved rounds.

On a GPU a moment is a CUDA event in the stream, so that a difference of two is the device's time and no
host clock. Before each timed call a buffer four times the size of the L2 cache is written, which makes the
inputs cold, and then the GPU spins for about a millisecond while the host enqueues the call: what Python takes
for a launch, several times what a small kernel runs, does not count either, unless the call waits for the device.
On a CPU a moment is `time.perf_counter()` and inputs are as warm as the previous call left them.

Variants are interleaved: a round times each of them once, in an order that turns by one each round, so that
a change of clock rate or a noisy neighbour meets all of them alike. pytest-benchmark times one test after
the other; `PLAYBACK` hands it the durations that the interleaved rounds took, as its timer.
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
    """A point in the stream of a GPU; `later - earlier` waits for both and gives seconds."""

    event: torch.cuda.Event

    def __sub__(self, earlier: Moment) -> float:
        self.event.synchronize()
        return earlier.event.elapsed_time(self.event) / 1e3


class DeviceClock:
    """The clock of a device: `clock()` is a moment, the difference of two is seconds."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._flush: Tensor | None = None
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            size = 4 * getattr(properties, "L2_cache_size", 0) or _COLD_BYTES_WITHOUT_L2
            self._flush = torch.empty(size, dtype=torch.int8, device=self.device)

    def __call__(self) -> float | Moment:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return Moment(event)

    def cold(self) -> None:
        """Evict the inputs of the next call from the GPU's cache and give the host a head start; nothing on a CPU."""
        if self._flush is not None:
            self._flush.zero_()
            torch.cuda._sleep(_HEAD_START)

    def seconds(self, call: Callable[[], object]) -> float:
        """Device seconds of one call with cold inputs."""
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
    """Seconds of each variant in each round, timed side by side.

    Args:
        variants: called with the number of the round, from -warmup to rounds - 1, so that they may rotate
            their inputs.
        clock: the clock of the device they run on.
        rounds: timed rounds, at least 1.
        warmup: rounds before them that are not counted: compilation, allocation, first touch.
        enough: seconds after which a variant sits out the rounds that are left, once it ran in five.
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
    """Most memory that PyTorch held on the device during a call beyond what it held before.

    On a CPU every allocation and release that its profiler reports is added up; what a library takes without PyTorch's
    allocator is not seen.
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
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it writes two lines a call to the standard output
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(0, max(held, default=0))


class Playback:
    """A timer that repeats known durations: of two calls the first gives 0, the second the next duration."""

    def __init__(self) -> None:
        self._durations: list[float] = []
        self._running = False

    def load(self, durations: list[float]) -> None:
        """Play these durations from now on, once each."""
        self._durations, self._running = list(durations), False

    def __call__(self) -> float:
        self._running = not self._running
        return 0.0 if self._running else self._durations.pop(0)


PLAYBACK = Playback()
"""The one that bench files give to pytest-benchmark: `pytestmark = pytest.mark.benchmark(timer=PLAYBACK)`."""
