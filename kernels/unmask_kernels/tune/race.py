"""Timing candidates side by side, and the rule by which one replaces the default.

A round times every candidate once, and the default twice. Each round begins with the next one, so another program or a
change of the clock rate slows all of them alike. The second time of the default shows the noise: it would be the same
as the first one on a machine that does nothing else.

    ratio    default's time / candidate's time, of the same round
    noise    upper quartile over the rounds of how far the default is from itself, as a ratio above 1
    taken    if the lower quartile of the ratio is above the noise and above 1.02;
             of several candidates the one with the highest median
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

__all__ = ["FEWEST_ROUNDS", "MOST_ROUNDS", "Clock", "DeviceClock", "Lead", "Times", "best_of", "lead", "noise", "race"]

FEWEST_ROUNDS, MOST_ROUNDS = 5, 25
_LEAST_GAIN = 1.02
_COLD_BYTES_WITHOUT_L2 = 256 << 20
_HEAD_START = 1 << 21  # cycles

Clock: TypeAlias = Callable[[Callable[[], object]], float]
"""Runs a call and returns its seconds."""


class DeviceClock:
    """The clock of a device.

    On a GPU, CUDA events measure. A buffer of four times the L2 cache is written before each call, so that inputs come
    from memory. Then the GPU spins while the host enqueues the call.
    """

    def __init__(self, device: torch.device) -> None:
        self._flush: Tensor | None = None
        if device.type == "cuda":
            size = 4 * getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or _COLD_BYTES_WITHOUT_L2
            self._flush = torch.empty(size, dtype=torch.int8, device=device)

    def __call__(self, call: Callable[[], object]) -> float:
        """Run the call and return its seconds."""
        if self._flush is None:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        self._flush.zero_()
        torch.cuda._sleep(_HEAD_START)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3


class Times(NamedTuple):
    """Seconds of each round.

    Attributes:
        default: of the default.
        again: of the default, a second time.
        others: of each candidate.
    """

    default: list[float]
    again: list[float]
    others: list[list[float]]


class Lead(NamedTuple):
    """How many times as fast as the default a candidate is: the median over the rounds, and the quartiles."""

    ratio: float
    low: float
    high: float


def race(
    default: Callable[[], object],
    others: Sequence[Callable[[], object]],
    clock: Clock,
    *,
    is_over: Callable[[], bool] = lambda: False,
    warmup: int = 1,
) -> Times:
    """Time the default and the other candidates.

    Args:
        default, others: the calls.
        clock: measures a call.
        is_over: asked after each round from the fifth on; there are at most 25.
        warmup: rounds that do not count, in which code is compiled and memory allocated.
    """
    calls = [default, *others, default]
    seconds: list[list[float]] = [[] for _ in calls]
    for round_ in range(-warmup, MOST_ROUNDS):
        for place in range(len(calls)):
            turn = (round_ + place) % len(calls)
            taken = clock(calls[turn])
            if round_ >= 0:
                seconds[turn].append(taken)
        if round_ + 1 >= FEWEST_ROUNDS and is_over():
            break
    return Times(default=seconds[0], again=seconds[-1], others=seconds[1:-1])


def lead(times: Times, other: int) -> Lead:
    """Return how fast candidate number `other` is beside the default.

    The default's time of a round is the mean of its two.
    """
    pairs = zip(times.default, times.again, times.others[other], strict=True)
    ratios = [(first + second) / 2 / taken for first, second, taken in pairs]
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return Lead(median(ratios), low, high)


def noise(times: Times) -> float:
    """Return the upper quartile of how far the default is from itself, 1 if it takes the same time twice."""
    apart = [max(first / second, second / first) for first, second in zip(times.default, times.again, strict=True)]
    return quantiles(apart, n=4, method="inclusive")[2]


def best_of(leads: Sequence[Lead], noise: float) -> int | None:
    """Return the number of the candidate that replaces the default by the rule; None if none does."""
    able = [number for number, one in enumerate(leads) if one.low > max(noise, _LEAST_GAIN)]
    return max(able, key=lambda number: leads[number].ratio, default=None)
