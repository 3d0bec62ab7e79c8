"""A run killed over and over, in training and in every part of a save, ends with the bits of one that is not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest


def start(tiny: ModuleType, run: Path, *, steps: int, moment: str = "") -> "subprocess.Popen[bytes]":
    assert tiny.__file__ is not None
    return subprocess.Popen(
        [sys.executable, tiny.__file__, str(run), str(steps), moment],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def end(process: "subprocess.Popen[bytes]") -> bool:
    """Wait for a process; whether it was killed at work. Any other end than that and success is an error."""
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode != 0


def kill_in_training(process: "subprocess.Popen[bytes]", run: Path, delay: float) -> None:
    """Kill `delay` seconds after the process has logged a row: importing takes longer than training."""
    log = run / "log.jsonl"
    before = log.stat().st_mtime_ns if log.exists() else 0
    size, deadline = -1, time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.stat().st_mtime_ns != before:
            # The first change cuts the log for the resumed run; the second is a row.
            if size not in (-1, log.stat().st_size):
                break
            size = log.stat().st_size
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()


def kill_in_turn(tiny: ModuleType, run: Path, moments: list[str | float], *, steps: int) -> None:
    """Kill one run at all these moments, `tiny.kill_at`'s or seconds of training; then let it finish."""
    for moment in moments:
        if isinstance(moment, str):
            process = start(tiny, run, steps=steps, moment=moment)
        else:
            process = start(tiny, run, steps=steps)
            kill_in_training(process, run, moment)
        assert end(process), f"the run ended before the kill at {moment} of {moments}"
    assert not end(start(tiny, run, steps=steps))


def test_after_kills_in_training_in_mid_file_and_around_a_rename(
    tiny: ModuleType, tmp_path: Path, unbroken: Path
) -> None:
    kill_in_turn(tiny, tmp_path / "run", ["torn:12", 0.0, "rename:5"], steps=16)
    tiny.assert_same_end(tmp_path / "run", unbroken)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1])
def test_after_twenty_kills_in_a_row(tiny: ModuleType, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    within = {"any": 60, "rename": 6, "remove": 25, "open": 60, "torn": 30}
    moments: list[str | float] = [f"{kind}:{chance.randint(1, most)}" for kind, most in within.items() for _ in "123"]
    moments += [chance.uniform(0.0, 0.1) for _ in range(5)]
    chance.shuffle(moments)
    assert len(moments) == 20
    tiny.pretrain(tiny.config(tmp_path / "unbroken", workers=1, steps=240))
    kill_in_turn(tiny, tmp_path / "run", moments, steps=240)
    tiny.assert_same_end(tmp_path / "run", tmp_path / "unbroken")
