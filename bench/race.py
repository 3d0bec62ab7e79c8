"""A race: the comparison of the tests first, then every variant of a case side by side in interleaved rounds.

pytest-benchmark has one test per variant. The first of them to run races all; each then plays its own durations
back to pytest-benchmark, whose statistics, comparisons and files work as usual. A variant that fails its comparison,
or cannot run at full size, is not timed, and its test alone fails, with what was raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from bench.clock import PLAYBACK, DeviceClock, interleave, peak_bytes

__all__ = ["Race", "compared"]

_ENOUGH_ON_GPU = 0.5  # seconds: of a slow peer fewer rounds serve


def compared(
    functions: Mapping[str, Callable[..., Any]], check: Callable[[str, Callable[..., Any]], object]
) -> dict[str, Callable[..., Any]]:
    """The functions by name; in place of one that `check(name, function)` fails, one that raises what it raised."""
    judged: dict[str, Callable[..., Any]] = {}
    for name, function in functions.items():
        try:
            check(name, function)
        except Exception as error:
            judged[name] = _raises(f"{type(error).__name__}: {error}")
        else:
            judged[name] = function
    return judged


def _raises(message: str) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        raise AssertionError(message)

    return call


class Race:
    """Times the variants of a case side by side, once, and hands each test its own variant's durations."""

    def __init__(self, clock: DeviceClock, rounds: int | None) -> None:
        self._clock = clock
        self._rounds = rounds
        self._results: dict[tuple[str, str], dict[str, tuple[list[float], int | None]]] = {}
        self._failures: dict[tuple[str, str], dict[str, str]] = {}

    def run(
        self,
        benchmark: Any,
        *,
        group: str,
        case: str,
        variant: str,
        enter: Callable[[], Mapping[str, Callable[[int], object]]],
        rounds: int,
        extra: Mapping[str, object],
    ) -> None:
        """Give `benchmark` the times of `variant`.

        Args:
            benchmark: pytest-benchmark's fixture, with `PLAYBACK` as its timer.
            group, case: what is compared; every variant of the same two is timed in one race.
            variant: the one this test stands for.
            enter: compares the variants with the truth and returns those to be timed. Called once for a race; what it
                raises fails every test of the race, what a variant raises when it is called fails that one's.
            rounds: timed rounds unless --rounds says otherwise.
            extra: facts to save with the result; see `bench.record` for the names it reads.
        """
        key = (group, case)
        if key not in self._results:
            self._results[key], self._failures[key] = {}, {}
            able = self._able(enter(), self._failures[key])
            self._results[key] = self._race(able, self._rounds or rounds)
        if variant not in self._results[key]:
            reason = self._failures[key].get(variant, "the race was not run because what comes before it failed")
            pytest.fail(f"{group}, {case}, {variant}: {reason}")
        durations, peak = self._results[key][variant]
        benchmark.group = group
        benchmark.extra_info.update({"case": case, "variant": variant, "peak_bytes": peak, **extra})
        PLAYBACK.load(durations)
        benchmark.pedantic(lambda: None, rounds=len(durations))

    def _able(
        self, variants: Mapping[str, Callable[[int], object]], failures: dict[str, str]
    ) -> dict[str, Callable[[int], object]]:
        """The variants whose first call, which compiles, raises nothing; what others raised goes into `failures`."""
        able = {}
        for name, call in variants.items():
            try:
                call(0)
            except Exception as error:
                failures[name] = f"{type(error).__name__}: {error}"
                if self._clock.device.type == "cuda":
                    torch.cuda.empty_cache()
            else:
                able[name] = call
        return able

    def _race(
        self, variants: Mapping[str, Callable[[int], object]], rounds: int
    ) -> dict[str, tuple[list[float], int | None]]:
        enough = _ENOUGH_ON_GPU if self._clock.device.type == "cuda" else math.inf
        times = interleave(variants, self._clock, rounds=rounds, warmup=1, enough=enough)
        peaks = {
            name: peak_bytes(lambda call=call: call(0), self._clock.device)  # type: ignore[misc]
            for name, call in variants.items()
        }
        return {name: (times[name], peaks[name]) for name in variants}
