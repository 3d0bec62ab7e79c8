"""A race: the comparison of the tests first, then every variant of a case side by side in interleaved rounds.

pytest-benchmark has one test per variant. The first of them to run races all; each then plays its own durations
back to pytest-benchmark, whose statistics, comparisons and files work as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from bench.clock import PLAYBACK, DeviceClock, interleave, peak_bytes

__all__ = ["Race"]


class Race:
    """Times the variants of a case side by side, once, and hands each test its own variant's durations."""

    def __init__(self, clock: DeviceClock, rounds: int | None) -> None:
        self._clock = clock
        self._rounds = rounds
        self._results: dict[tuple[str, str], dict[str, tuple[list[float], int | None]]] = {}

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
            enter: compares every variant with the truth, then returns those to be timed. Called once for a
                race; an AssertionError fails every test of the race.
            rounds: timed rounds unless --rounds says otherwise.
            extra: facts to save with the result; see `bench.record` for the names it reads.
        """
        key = (group, case)
        if key not in self._results:
            self._results[key] = {}
            self._results[key] = self._race(enter(), self._rounds or rounds)
        if variant not in self._results[key]:
            pytest.fail(f"{group}, {case}: the race was not run because the comparison before it failed")
        durations, peak = self._results[key][variant]
        benchmark.group = group
        benchmark.extra_info.update({"case": case, "variant": variant, "peak_bytes": peak, **extra})
        PLAYBACK.load(durations)
        benchmark.pedantic(lambda: None, rounds=len(durations))

    def _race(
        self, variants: Mapping[str, Callable[[int], object]], rounds: int
    ) -> dict[str, tuple[list[float], int | None]]:
        times = interleave(variants, self._clock, rounds=rounds)
        peaks = {
            name: peak_bytes(lambda call=call: call(0), self._clock.device)  # type: ignore[misc]
            for name, call in variants.items()
        }
        return {name: (times[name], peaks[name]) for name in variants}
