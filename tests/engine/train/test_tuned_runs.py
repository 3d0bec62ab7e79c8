"""A run uses what was tuned on its machine and says so, and a resumed one goes on with what it began with."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from unmask.config import KernelsConfig
from unmask.train import threads
from unmask.train.logging.progress import Display
from unmask.train.logging.provenance import machine
from unmask.train.run_folder import saved_config
from unmask.train.threads import step_shape
from unmask_kernels.tune.finding import Finding
from unmask_kernels.tune.record import read_tuned, write_finding
from unmask_kernels.tuned import tunables

# The plain definition in the place of the groups adds up in another order. A tuning never takes it, but these tests
# need other bits on a CPU.
FASTEST = Finding(
    choice="attention.backend",
    shape="heads of 8, float32",
    asked="",
    measured="",
    default="first",
    best="reference",
    taken=True,
    ratio=1.5,
)
TEXT = {"attention.backend: heads of 8, float32": "reference"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    tunable = tunables["attention.backend"]
    monkeypatch.setattr(tunable, "candidates", (*tunable.candidates, "reference"))


def saved_values(run: Path) -> Any:
    """The values in the newest checkpoint; None if it has none."""
    newest = max((run / "checkpoints").glob("step-*[0-9]/training/state.json"))
    return json.loads(newest.read_text()).get("tuned")


def stopped_at(step: int, train: Callable[[], object]) -> None:
    """Train until an error right after update number `step`."""
    advance = Display.advance

    def failing(display: Display) -> None:
        advance(display)
        if display._done == step:
            raise RuntimeError("stop")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Display, "advance", failing)
        with pytest.raises(RuntimeError, match="stop"):
            train()


def test_a_new_run_uses_what_was_tuned_and_a_resumed_one_repeats_its_bits_without_the_record(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_finding("cpu", FASTEST)
    caplog.set_level(logging.INFO, "unmask")
    whole, run = tmp_path / "whole", tmp_path / "run"
    tiny.pretrain(tiny.config(whole))
    told = "kernels.tuned: what `unmask tune` found to be faster on this machine is used (attention.backend reference)"
    assert told in caplog.text
    assert saved_values(whole) == TEXT
    # it is in effect: other bits, and the same learning
    tuned, plain = tiny.parameters(whole), tiny.parameters(unbroken)
    assert any(not torch.equal(tuned[name], plain[name]) for name in plain)
    assert all(torch.allclose(tuned[name], plain[name], atol=1e-4) for name in plain)

    stopped_at(7, lambda: tiny.pretrain(tiny.config(run)))
    [record] = read_tuned()
    record.path.unlink()
    caplog.clear()
    tiny.pretrain(saved_config(run), resume=run)
    tiny.assert_same_end(run, whole)
    assert saved_values(run) == TEXT
    told = "the run goes on with the 1 value of `unmask tune` that it began with, where a new run would take 0"
    assert told in caplog.text


def test_a_run_that_was_tuned_for_in_the_middle_goes_on_as_it_began(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    stopped_at(7, lambda: tiny.pretrain(tiny.config(run)))
    write_finding("cpu", FASTEST)
    caplog.set_level(logging.INFO, "unmask")
    tiny.pretrain(saved_config(run), resume=run)
    tiny.assert_same_end(run, unbroken)
    assert "the 0 values of `unmask tune` that it began with, where a new run would take 1" in caplog.text
    assert saved_values(run) is None


def test_a_value_that_this_version_does_not_have_is_named(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_finding("cpu", FASTEST)
    run = tmp_path / "run"
    stopped_at(7, lambda: tiny.pretrain(tiny.config(run)))
    other = run.parent / "other"
    shutil.copytree(run, other)
    caplog.set_level(logging.WARNING, "unmask")
    with monkeypatch.context() as patched:
        patched.delitem(tunables, "attention.backend")
        tiny.pretrain(saved_config(run), resume=run)
    assert "values that this version does not have (attention.backend: heads of 8, float32)" in caplog.text
    # the way out
    assert "resume it with the version that it began with" in caplog.text
    caplog.clear()
    tiny.pretrain(saved_config(other), resume=other)
    assert "does not have" not in caplog.text


def test_never_leaves_it_out(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_finding("cpu", FASTEST)
    caplog.set_level(logging.INFO, "unmask")
    run = tmp_path / "run"
    tiny.pretrain(replace(tiny.config(run), kernels=KernelsConfig(tuned="never")))
    tiny.assert_same_end(run, unbroken)
    assert "unmask tune" not in caplog.text


def test_a_run_that_goes_on_with_another_device_takes_what_was_tuned_there(tiny: ModuleType, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_finding("cpu", FASTEST)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("unmask.train.saver.machine", lambda *of: {**machine(*of), "device": "Another GPU"})
        stopped_at(7, lambda: tiny.pretrain(tiny.config(run)))
    assert saved_values(run) == TEXT
    [record] = read_tuned()
    record.path.unlink()
    write_finding("cpu", replace(FASTEST, choice="attention.scores", default=1 << 21, best=1 << 20))
    tiny.pretrain(saved_config(run), resume=run)
    assert saved_values(run) == {"attention.scores: heads of 8, float32": 1 << 20}


def test_the_number_of_threads_is_only_advised(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = tiny.config(run, threads=None, steps=2)
    shape = step_shape(config.model, torch.float32)
    here = torch.get_num_threads()
    advice = {"choice": "train.threads", "shape": shape, "default": here, "best": here + 1, "advice": True}
    write_finding("cpu", replace(FASTEST, **advice))
    caplog.set_level(logging.INFO, "unmask")
    monkeypatch.setattr(threads, "usable_cores", lambda: float(here))
    tiny.pretrain(tiny.config(tmp_path / "narrow", threads=None, steps=2))
    assert "train.threads" not in caplog.text
    monkeypatch.setattr(threads, "usable_cores", lambda: here + 1.0)
    tiny.pretrain(config)
    assert torch.get_num_threads() == here
    assert (
        f"train.threads: `unmask tune` found {here + 1} threads 1.50 times as fast as {here}; "
        f"--train.threads {here + 1} takes them, in a new run" in caplog.text
    )
    assert saved_values(run) is None
    # the way out
    caplog.clear()
    try:
        tiny.pretrain(tiny.config(tmp_path / "other", threads=here + 1, steps=2))
    finally:
        torch.set_num_threads(here)
    assert "unmask tune" not in caplog.text
