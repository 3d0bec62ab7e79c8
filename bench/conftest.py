"""What every bench shares: the paths, the saved facts, the comparison before the clock, the interleaved race.

pytest bench                       prints tables
pytest bench --record              also writes bench/results/<machine>/<date>-<commit>.json
pytest bench --rounds 50           more rounds than the default of a bench
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

for _folder in (".", "engine", "kernels"):
    _path = str((Path(__file__).resolve().parent.parent / _folder).resolve())
    if _path not in sys.path:
        sys.path.append(_path)

from bench import machine  # noqa: E402
from bench.clock import PLAYBACK, DeviceClock, interleave, peak_bytes  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write the results into bench/results")
    parser.addoption("--rounds", type=int, default=None, help="timed rounds of each race")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")
    if config.getoption("--record"):
        commit = machine.commit()["id"][:10]
        path = machine.ROOT / "bench" / "results" / machine.name() / f"{date.today().isoformat()}-{commit}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        config.option.benchmark_json = path


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine.facts()


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    return machine.commit()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def clock(device: torch.device) -> DeviceClock:
    return DeviceClock(device)


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
            extra: facts to save with the result; see `bench.report` for the names it reads.
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


@pytest.fixture(scope="session")
def race(clock: DeviceClock, pytestconfig: pytest.Config) -> Race:
    """The races of this session."""
    return Race(clock, pytestconfig.getoption("--rounds"))
