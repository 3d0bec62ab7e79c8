"""Give the times of `bench_step.py` to pytest-benchmark, which records them with those of the other benches.

pytest bench/engine/bench_training_step.py        mini on a CPU, base on a GPU, five rounds
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bench import machine
from bench.clock import PLAYBACK
from bench.engine.bench_step import measure, ours_in, peers_in

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)


@pytest.fixture(scope="module")
def measured(device: torch.device, pytestconfig: pytest.Config) -> dict[str, dict[str, Any]]:
    rounds = pytestconfig.getoption("--rounds") or 5
    name = "base" if device.type == "cuda" else "mini"
    return {row["extra_info"]["variant"]: row for row in measure(name, dropout=0.0, rounds=rounds, device=device)}


@pytest.mark.parametrize("variant", [ours_in(machine.fast_dtype()), *peers_in(machine.fast_dtype())])
def bench_training_step(benchmark: Any, measured: dict[str, dict[str, Any]], variant: str) -> None:
    row = measured[variant]
    benchmark.group = row["group"]
    benchmark.extra_info.update(row["extra_info"])
    PLAYBACK.load(row["stats"]["data"])
    benchmark.pedantic(lambda: None, rounds=row["stats"]["rounds"])
