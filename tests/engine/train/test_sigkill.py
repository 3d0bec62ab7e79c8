"""A run killed over and over, in training and in every part of a save, ends with the bits of one that is not."""

import multiprocessing
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType

import pytest

# one process imports, which takes longer than training; those that are killed are its forks
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["unmask.train.pretrain"])

PROGRAM = """
import os, runpy, sys
os.dup2(os.open({errors!r}, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
sys.argv = [{file!r}, {run!r}, {steps!r}, {moment!r}]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(tiny: ModuleType, run: Path, *, steps: int, moment: str = "") -> ForkServerProcess:
    program = PROGRAM.format(errors=f"{run}.err", file=tiny.__file__, run=str(run), steps=str(steps), moment=moment)
    process = FORKS.Process(target=exec, args=(program, {}))
    process.start()
    return process


def end(process: ForkServerProcess, run: Path) -> bool:
    """Wait for a process; whether it was killed at work. Any other end than that and success is an error."""
    process.join(timeout=600)
    assert process.exitcode in (0, -signal.SIGKILL), Path(f"{run}.err").read_text()
    return process.exitcode != 0


def kill_in_training(process: ForkServerProcess, run: Path, delay: float) -> None:
    """Kill `delay` seconds after the process has logged a row."""
    log = run / "log.jsonl"
    before = log.stat().st_mtime_ns if log.exists() else 0
    size, deadline = -1, time.monotonic() + 600
    while process.exitcode is None and time.monotonic() < deadline:
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
        assert end(process, run), f"the run ended before the kill at {moment} of {moments}"
    assert not end(start(tiny, run, steps=steps), run)


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
