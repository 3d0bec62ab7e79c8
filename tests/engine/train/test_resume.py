"""However a run stops, what it leaves behind goes on to the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from unmask.errors import CheckpointError, RunError
from unmask.train.log import read_evaluations, read_log
from unmask.train.progress import Display
from unmask.train.run_folder import saved_config
from unmask.train.state import Facts

TIMES = ("tokens_per_second", "data_wait", "seconds_per_step")


def assert_same_end(tiny: ModuleType, run: Path, unbroken: Path) -> None:
    """Equal weights to the bit, and an equal log but for the times in it."""
    expected, got = tiny.parameters(unbroken), tiny.parameters(run)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name
    assert without_times(run) == without_times(unbroken)


def without_times(run: Path) -> list[dict[str, Any]]:
    rows = read_log(run) + read_evaluations(run)
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def resume(tiny: ModuleType, run: Path, **changes: Any) -> None:
    tiny.pretrain(saved_config(run, changes), resume=run)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do something right after update number `step`."""
    original = Display.advance

    def advance(display: Display) -> None:
        original(display)
        if display._done == step:
            action()

    monkeypatch.setattr(Display, "advance", advance)


@pytest.mark.parametrize("step", [1, 7, 8, 15])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_polite_stop(
    tiny: ModuleType,
    tmp_path: Path,
    unbroken: Path,
    capsys: pytest.CaptureFixture[str],
    step: int,
    number: signal.Signals,
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, step, lambda: os.kill(os.getpid(), number))
        assert tiny.pretrain(tiny.config(run)) == run
    said = capsys.readouterr().out
    assert f"{number.name}: stopped after step {step}, saved; continue with `unmask pretrain --resume {run}`" in said
    assert "fill-mask" not in said
    assert (run / "checkpoints" / f"step-{step:06d}").is_dir()
    resume(tiny, run)
    assert_same_end(tiny, run, unbroken)


@pytest.mark.parametrize("inside", [False, True])
def test_a_stop_does_not_wait_for_an_evaluation_which_the_resumed_run_makes(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, capsys: pytest.CaptureFixture[str], inside: bool
) -> None:
    run = tmp_path / "run"
    evaluated = []

    def evaluate(*arguments: Any, **options: Any) -> Any:
        evaluated.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    original = tiny.pretrain.__globals__["evaluate"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("unmask.train.trainer.evaluate", evaluate)
        if not inside:
            at_step(patched, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(tiny.config(run))
    assert len(evaluated) == inside
    assert "held-out" not in capsys.readouterr().out
    assert (run / "checkpoints" / "step-000008").is_dir()
    resume(tiny, run)
    assert "fill-mask" in capsys.readouterr().out
    assert_same_end(tiny, run, unbroken)


def test_after_an_error_in_mid_run_and_after_the_end(tiny: ModuleType, tmp_path: Path, unbroken: Path) -> None:
    run = tmp_path / "run"

    def fail() -> None:
        raise MemoryError

    for step in (4, 7, 12):
        with pytest.MonkeyPatch.context() as patched:
            at_step(patched, step, fail)
            go = partial(resume, tiny, run) if run.exists() else partial(tiny.pretrain, tiny.config(run))
            with pytest.raises(MemoryError):
                go()
    resume(tiny, run)
    assert_same_end(tiny, run, unbroken)
    resume(tiny, run)
    assert_same_end(tiny, run, unbroken)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_workers_and_either_activation_dtype(tiny: ModuleType, tmp_path: Path, dtype: str) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    tiny.pretrain(tiny.config(whole, workers=1, dtype=dtype))
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 11, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(tiny.config(parted, workers=1, dtype=dtype))
    resume(tiny, parted, **{"data.workers": 0})
    assert_same_end(tiny, parted, whole)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_from_the_one_before_when_the_newest_checkpoint_is_damaged(
    tiny: ModuleType,
    tmp_path: Path,
    unbroken: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 12, lambda: os.kill(os.getpid(), signal.SIGTERM))
        tiny.pretrain(tiny.config(run))
    damage(run / "checkpoints" / "step-000012" / "training" / "__0_0.distcp")
    capsys.readouterr()
    resume(tiny, run)
    said = capsys.readouterr().out
    assert "step-000012: training/__0_0.distcp" in said
    assert "resumed from" in said
    assert "step-000010" in said
    assert_same_end(tiny, run, unbroken)


def test_after_the_disk_was_full_in_mid_save(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def full(folder: Path, *rest: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 9, lambda: patched.setattr("unmask.train.trainer.save_state", full))
        with pytest.raises(CheckpointError, match=r"step-000010 could not be written .*step-000005 is whole"):
            tiny.pretrain(tiny.config(run))
    resume(tiny, run)
    assert_same_end(tiny, run, unbroken)


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    tiny: ModuleType, tmp_path: Path, unbroken: Path
) -> None:
    run = tmp_path / "run"

    def fail() -> None:
        raise MemoryError

    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 4, fail)
        with pytest.raises(MemoryError):
            tiny.pretrain(tiny.config(run))
    assert not (run / "checkpoints").exists()
    resume(tiny, run)
    assert_same_end(tiny, run, unbroken)


def test_other_data_is_refused(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=4, phases=[]))
    store, _ = tiny.text()
    ids = store.ids.copy()
    ids[0] += 1
    monkeypatch.setattr(store, "ids", ids)
    with pytest.raises(CheckpointError, match="was trained on other data"):
        resume(tiny, run, **{"train.steps": 8})


def test_the_store_may_lie_elsewhere_and_the_threads_may_change_which_is_said(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=4, phases=[]))
    capsys.readouterr()
    resume(tiny, run, **{"train.steps": 6, "data.store": "moved", "train.threads": 2})
    assert "threads were 1, now 2: same data and masks, but sums may round differently" in capsys.readouterr().out
    resume(tiny, run, **{"train.steps": 8, "train.threads": 1})
    assert read_log(run)[-1]["step"] == 8


def test_auto_stays_what_it_was_where_another_machine_would_choose_otherwise(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr("unmask.train.precision._fast_bfloat16", lambda device: (True, "fast"))
    tiny.pretrain(tiny.config(run, steps=4, phases=[], dtype="auto"))
    state = json.loads((run / "checkpoints" / "step-000004" / "training" / "state.json").read_text())
    assert state["machine"]["activations"] == "bfloat16"
    assert {"device", "unmask", "torch", "python"} <= state["machine"].keys()
    monkeypatch.setattr("unmask.train.precision._fast_bfloat16", lambda device: (False, "slow"))
    capsys.readouterr()
    resume(tiny, run, **{"train.steps": 6})
    said = capsys.readouterr().out
    assert "activations stay in bfloat16, as saved" in said
    assert "activations was" not in said
    assert saved_config(run).train.dtype == "auto"


def test_a_tampered_fingerprint_is_refused(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=4, phases=[]))
    original = tiny.pretrain.__globals__["load_facts"]

    def tampered(folder: Path) -> Facts:
        facts: Facts = original(folder)
        object.__setattr__(facts, "fingerprint", "0" * 64)
        return facts

    monkeypatch.setattr("unmask.train.trainer.load_facts", tampered)
    with pytest.raises(CheckpointError, match="stream 0000000000000000 was saved"):
        resume(tiny, run)


def test_more_steps_go_on_and_fewer_than_done_are_refused(tiny: ModuleType, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=4, phases=[]))
    resume(tiny, run, **{"train.steps": 6})
    assert read_log(run)[-1]["step"] == 6
    with pytest.raises(RunError, match=r"train\.steps is 5 but 6 steps are done"):
        resume(tiny, run, **{"train.steps": 5})
    resume(tiny, run)
    assert read_log(run)[-1]["step"] == 6


def start(tiny: ModuleType, run: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    assert tiny.__file__ is not None
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, tiny.__file__, str(run), *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kill_repeatedly(tiny: ModuleType, run: Path, times: int, seed: int) -> int:
    """Start and SIGKILL `times` times, at random moments of training and of saving; then let it finish.

    Returns how many of the kills hit a process that was still at work.
    """
    chance = random.Random(seed)
    hits = 0
    for turn in range(times):
        if turn % 2:
            process = start(tiny, run, str(chance.randint(1, 12)))
        else:
            process = start(tiny, run)
            deadline = time.monotonic() + 60
            begun = run / "log.jsonl"
            size = begun.stat().st_size if begun.exists() else 0
            # A row is written early in a run, so that this waits for training and not for imports.
            while process.poll() is None and time.monotonic() < deadline:
                if begun.exists() and begun.stat().st_size not in (0, size):
                    break
                time.sleep(0.002)
            time.sleep(chance.uniform(0.0, 0.15))
            process.kill()
        _, errors = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        hits += process.returncode != 0
    process = start(tiny, run)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    return hits


def test_after_sigkill_in_training_and_inside_a_save(tiny: ModuleType, tmp_path: Path, unbroken: Path) -> None:
    assert kill_repeatedly(tiny, tmp_path / "run", times=3, seed=1) >= 2
    assert_same_end(tiny, tmp_path / "run", unbroken)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_twenty_sigkills(tiny: ModuleType, tmp_path: Path, unbroken: Path) -> None:
    hits = runs = 0
    while hits < 20:
        run = tmp_path / f"run-{runs}"
        hits += kill_repeatedly(tiny, run, times=4, seed=runs)
        assert_same_end(tiny, run, unbroken)
        runs += 1
        assert runs <= 20, "the kills came too late to hit anything"
