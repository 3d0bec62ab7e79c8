"""bench_goodput: what it counts as useful, with a command that only writes a log."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from bench.engine import bench_goodput

# a step takes 0.02 s; it starts again after the last step that a multiple of 5 saved
TRAINING = """
import json, pathlib, signal, sys, time
log = pathlib.Path(sys.argv[1]) / "log.jsonl"
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
rows = log.read_text().splitlines() if log.exists() else []
rows = rows[: len(rows) // 5 * 5]
while not stopped:
    time.sleep(0.02)
    step = len(rows) + 1
    rows.append(json.dumps({"step": step, "tokens": 10 * step, "tokens_per_second": 500.0}))
    log.write_text("\\n".join(rows) + "\\n")
sys.exit(75)
"""


def test_lost_steps_and_starts_are_no_useful_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def saved(run: Path) -> int:
        return len((run / "log.jsonl").read_text().splitlines()) // 5 * 5

    monkeypatch.setattr(bench_goodput, "saved_step", saved)
    command = [sys.executable, "-c", TRAINING, str(tmp_path)]
    found = bench_goodput.measure(command, tmp_path, seconds=3.0, kills=[1.0, 2.0])
    assert found.kills == 2 and found.seconds >= 3.0
    assert 0 <= found.lost <= 3 * 4
    assert found.share == pytest.approx(found.steps * 10 / 500.0 / found.seconds)


def test_a_command_that_fails_ends_the_bench_with_what_it_said(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no store')"]
    with pytest.raises(SystemExit, match="bench_goodput: exit status 1: no store"):
        bench_goodput.measure(command, tmp_path, seconds=5.0, kills=[])


def test_moments_of_kills_depend_on_the_seed_alone() -> None:
    found = bench_goodput.moments_of_kills(6000.0, 60.0, random.Random(1))
    assert found == bench_goodput.moments_of_kills(6000.0, 60.0, random.Random(1)) == sorted(found)
    assert 60 < len(found) < 140 and found[-1] < 6000.0
