"""Options, saved facts and fixtures of all benches.

pytest bench                       prints tables
pytest bench --record              also writes bench/results/<machine>/<date>-<commit>-<bench>.json
pytest bench --rounds 50           more rounds than the default of a bench
VARIANTS="triton;eager" pytest bench    only these variants; the others are not built

With `-k` too, only variants of selected benches are built.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

for _folder in (".", "engine", "kernels"):
    _path = str((Path(__file__).resolve().parent.parent / _folder).resolve())
    if _path not in sys.path:
        sys.path.append(_path)

from bench import machine, record, variants  # noqa: E402
from bench.clock import DeviceClock  # noqa: E402
from bench.side_by_side import SideBySide  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write the results into bench/results")
    parser.addoption("--chinese", default=None, help="Chinese text, a file or folder, for bench_prepare")
    parser.addoption("--rounds", type=int, default=None, help="timed rounds of each case")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")
    if config.getoption("--record"):
        # named after the files asked for: a bench must not overwrite another of the same day and commit
        asked = "-".join(Path(argument.split("::")[0]).stem.removeprefix("bench_") for argument in config.args)
        path = record.result_path(asked)
        path.parent.mkdir(parents=True, exist_ok=True)
        config.option.benchmark_json = path


# last, after the selection by -k
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def variant(item: pytest.Item) -> str | None:
        return getattr(getattr(item, "callspec", None), "params", {}).get("variant")

    if asked := os.environ.get("VARIANTS"):
        names = {name.strip() for name in asked.split(";")}
        known = dict.fromkeys(name for item in items if (name := variant(item)) is not None)
        if known and not names & known.keys():
            raise pytest.UsageError(
                f"VARIANTS names none of the variants of these benches, got {asked!r}; there are: {'; '.join(known)}"
            )
        left_out = [item for item in items if variant(item) not in names]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if variant(item) in names]
    variants.select({name for item in items if (name := variant(item)) is not None})


# optional: the hook exists only with pytest-benchmark
@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine.facts()


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    return machine.commit()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def clock(device: torch.device) -> DeviceClock:
    return DeviceClock(device)


@pytest.fixture(scope="session")
def side_by_side(clock: DeviceClock, pytestconfig: pytest.Config) -> SideBySide:
    """Times each case once in the whole run of pytest."""
    return SideBySide(clock, pytestconfig.getoption("--rounds"))
