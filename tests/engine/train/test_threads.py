"""A run on a busy machine, or in a container, is told to take fewer threads."""

import os
from pathlib import Path

import pytest

from unmask.train.threads import CrowdWatch, usable_cores


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Two cores that do nothing, and a process that has just begun; a test changes the numbers."""
    now = {"load": 0.0, "used": 0.0, "time": 1000.0, "cores": 2.0}
    monkeypatch.setattr("unmask.train.threads._IMPORTED", 1000.0)
    monkeypatch.setattr("unmask.train.threads.usable_cores", lambda: now["cores"])
    monkeypatch.setattr("unmask.train.threads.time.monotonic", lambda: now["time"])
    monkeypatch.setattr(os, "getloadavg", lambda: (now["load"], 0.0, 0.0))
    monkeypatch.setattr(os, "times", lambda: (now["used"], 0.0, 0.0, 0.0, now["time"]))
    return now


@pytest.mark.parametrize(
    ("load", "cores", "threads", "fewer"),
    [
        (6.0, 2, 2, 1),
        (1.0, 2, 2, 1),
        (0.3, 2, 2, None),
        (6.0, 2, 1, None),
        (3.1, 8, 8, 5),
        (7.0, 8, 4, 1),
        (3.0, 8, 4, None),
        (0.0, 2, 16, 2),
    ],
)
def test_fewer_free_cores_than_threads_are_told_with_a_number_that_fits(
    machine: dict[str, float], load: float, cores: float, threads: int, fewer: int | None
) -> None:
    machine |= {"load": load, "cores": cores}
    told = CrowdWatch().look(threads)
    if fewer is None:
        assert told is None
        return
    assert told is not None
    assert f"PyTorch has {threads} threads" in told
    assert f"--train.threads {fewer} " in told
    # the advice works
    assert CrowdWatch().look(fewer) is None


def test_it_is_told_once(machine: dict[str, float]) -> None:
    machine["load"] = 6.0
    watch = CrowdWatch()
    assert watch.look(2) is not None
    machine["time"] += 100.0
    assert watch.look(2) is None


def test_the_run_itself_is_not_another_program(machine: dict[str, float]) -> None:
    """Two threads for ten minutes bring the load to two; then others come."""
    watch = CrowdWatch()
    for _ in range(20):
        machine["time"] += 30.0
        machine["used"] += 60.0
        machine["load"] += (2.0 - machine["load"]) * 0.3935
        assert watch.look(2, workers=0) is None
    machine |= {"time": machine["time"] + 60.0, "used": machine["used"] + 120.0, "load": 5.0}
    told = watch.look(2)
    assert told is not None
    assert "other programs want 3.0" in told


def test_the_workers_of_the_run_are_its_own(machine: dict[str, float]) -> None:
    machine["load"] = 1.0
    assert CrowdWatch().look(2, workers=1) is None
    assert CrowdWatch().look(2) is not None


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
        ({"cpu.max": "strange"}, None),
    ],
)
def test_a_container_may_have_less_than_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr("unmask.train.threads._CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    assert usable_cores() == (3.0 if limit is None else limit)
