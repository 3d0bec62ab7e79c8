"""Give the times of `bench_step.py` to pytest-benchmark, which records them with those of the other benches.

pytest bench/engine/bench_training_step.py        mini on a CPU, base on a GPU, five rounds
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bench.clock import PLAYBACK
from bench.engine.bench_step import GROUPED, OURS, THEIRS, measure
from bench.training_step import HAS_TRANSFORMERS

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)


@pytest.fixture(scope="module")
def measured(device: torch.device, pytestconfig: pytest.Config) -> dict[str, dict[str, Any]]:
    rounds = pytestconfig.getoption("--rounds") or 5
    name = "base" if device.type == "cuda" else "mini"
    return {row["extra_info"]["variant"]: row for row in measure(name, dropout=0.1, rounds=rounds, device=device)}


@pytest.mark.parametrize("variant", [OURS, THEIRS, GROUPED] if HAS_TRANSFORMERS else [OURS])
def bench_training_step(benchmark: Any, measured: dict[str, dict[str, Any]], variant: str) -> None:
    row = measured[variant]
    benchmark.group = row["group"]
    benchmark.extra_info.update(row["extra_info"])
    PLAYBACK.load(row["stats"]["data"])
    benchmark.pedantic(lambda: None, rounds=row["stats"]["rounds"])
