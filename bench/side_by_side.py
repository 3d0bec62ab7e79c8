"""Time all variants of a case side by side, in interleaved rounds, after the comparison with the truth.

pytest-benchmark has one test per variant. The first test of a case times all of its variants. Each test then replays
the durations of its own variant to pytest-benchmark, whose statistics, comparisons and files work as usual. A variant
that fails its comparison, or cannot run at full size, is not timed: its test fails with the error, the others do not.
Variants of which no test was selected are neither built nor timed. `record.flush` gets a case as soon as it is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from bench import record
from bench.clock import PLAYBACK, DeviceClock, interleave, peak_bytes
from bench.variants import wanted

__all__ = ["SideBySide"]

_ENOUGH_ON_GPU = 0.5  # seconds after which a slow peer is timed no more


class SideBySide:
    """Times the variants of a case side by side, once, and gives each test the durations of its variant.

    Args:
        clock: of the device.
        rounds: the option --rounds; None leaves the choice to each bench.
    """

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
            group: the heading of the table, such as "gelu forward".
            case: the line's case; all variants of a group and case are timed together.
            variant: the variant of this test.
            enter: compares the variants with the truth and returns the calls to time. It is called once for a case. If
                it raises, every test of the case fails; if a call raises, the test of that variant fails.
            rounds: timed rounds, unless --rounds gives another number.
            extra: facts to save with the result; `bench/record.py` lists their names.
        """
        key = (group, case)
        if key not in self._results:
            self._results[key], self._failures[key] = {}, {}
            chosen = {name: call for name, call in enter().items() if wanted(name)}
            able = self._able(chosen, self._failures[key])
            self._results[key] = self._time(able, self._rounds or rounds)
            record.flush(
                record.benchmark_entry(group, name, taken, **{**extra, "case": case, "peak_bytes": peak})  # type: ignore[arg-type]
                for name, (taken, peak) in self._results[key].items()
            )
        if variant not in self._results[key]:
            reason = self._failures[key].get(variant, "nothing was timed because the preparation failed")
            pytest.fail(f"{group}, {case}, {variant}: {reason}")
        durations, peak = self._results[key][variant]
        benchmark.group = group
        benchmark.extra_info.update({"case": case, "variant": variant, "peak_bytes": peak, **extra})
        PLAYBACK.load(durations)
        benchmark.pedantic(lambda: None, rounds=len(durations))

    def _able(
        self, variants: Mapping[str, Callable[[int], object]], failures: dict[str, str]
    ) -> dict[str, Callable[[int], object]]:
        """Return the variants whose first call, which compiles, succeeds; put the others' errors into `failures`."""
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

    def _time(
        self, variants: Mapping[str, Callable[[int], object]], rounds: int
    ) -> dict[str, tuple[list[float], int | None]]:
        enough = _ENOUGH_ON_GPU if self._clock.device.type == "cuda" else math.inf
        times = interleave(variants, self._clock, rounds=rounds, warmup=1, enough=enough)
        peaks = {
            name: peak_bytes(lambda call=call: call(0), self._clock.device)  # type: ignore[misc]
            for name, call in variants.items()
        }
        return {name: (times[name], peaks[name]) for name in variants}
