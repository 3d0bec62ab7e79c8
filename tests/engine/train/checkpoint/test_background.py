"""A save in the background writes the state of its step, one at a time, and its failure comes back."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from unmask.errors import CheckpointError, RunError
from unmask.train.checkpoint import background
from unmask.train.checkpoint.background import BackgroundSaves
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.step import TrainingStep
from unmask.train.trainer import Trainer


def trained() -> tuple[nn.Parameter, torch.optim.Optimizer]:
    """A parameter with a gradient, and its optimizer."""
    weight = nn.Parameter(torch.arange(6.0).view(2, 3))
    weight.grad = torch.ones(2, 3)
    return weight, torch.optim.SGD([weight], lr=1.0)


OPTIMIZER = trained()[1]


def test_what_is_written_is_the_state_before_the_next_update() -> None:
    """The copy is made slowly; the update waits for it, and does not wait for the writing."""
    (weight, optimizer), saves = trained(), BackgroundSaves()
    go, found, copied = threading.Event(), {}, []

    def state() -> Iterator[tuple[str, torch.Tensor]]:
        yield "weight", weight
        yield "large", torch.ones(30_000_000)

    def save(state: dict[str, torch.Tensor]) -> None:
        assert go.wait(30)
        found.update({name: value.clone() for name, value in state.items()})

    saves.begin(state(), save, optimizer)
    optimizer.step()
    copied.append(weight.detach().clone())
    saves.check()
    go.set()
    saves.wait()
    assert torch.equal(found["weight"], torch.arange(6.0).view(2, 3))
    assert float(found["large"].min()) == 1.0
    assert torch.equal(copied[0], torch.arange(6.0).view(2, 3) - 1.0)
    # the hook of the save is gone
    assert not optimizer._optimizer_step_pre_hooks


def test_the_memory_of_a_copy_is_used_again() -> None:
    saves, places = BackgroundSaves(), []
    weight = torch.ones(3)
    for _ in range(2):
        saves.begin([("weight", weight)], lambda state: places.append(state["weight"].data_ptr()), OPTIMIZER)
    saves.wait()
    assert places[0] == places[1] != weight.data_ptr()


def test_a_second_save_waits_for_the_first_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_TOLD_SECONDS", 0.01)
    saves, running, most = BackgroundSaves(), [], 0

    def save(state: dict[str, torch.Tensor]) -> None:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        time.sleep(0.05)
        running.pop()

    for _ in range(3):
        saves.begin([], save, OPTIMIZER)
    saves.wait()
    assert most == 1
    (said,) = caplog.messages
    assert "a larger train.save_every leaves time for it" in said


def test_a_failure_is_raised_once_by_whatever_comes_next() -> None:
    def fail(state: dict[str, torch.Tensor]) -> None:
        raise OSError(28, "No space left on device")

    for name in ("check", "wait", "begin"):
        saves = BackgroundSaves()
        saves.begin([], fail, OPTIMIZER)
        while saves._thread is not None and saves._thread.is_alive():
            time.sleep(0.001)
        with pytest.raises(OSError, match="No space left"):
            saves.begin([], fail, OPTIMIZER) if name == "begin" else getattr(saves, name)()
        saves.wait()


def test_training_goes_on_while_a_checkpoint_is_written(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer of step 5 waits until step 8 is done; the run has the bits of one that waited for it."""
    done, eighth, save = [], threading.Event(), Checkpoints.save
    call = TrainingStep.__call__

    def slow(self: Checkpoints, step: int, *given: object, **settings: object) -> Path:
        assert step != 5 or eighth.wait(60)
        return save(self, step, *given, **settings)  # type: ignore[arg-type]

    def counted(self: TrainingStep, batches: object) -> object:
        done.append(1)
        if len(done) == 9:
            eighth.set()
        return call(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoints, "save", slow)
    monkeypatch.setattr(TrainingStep, "__call__", counted)
    tiny.pretrain(tiny.config(tmp_path / "run"))
    tiny.assert_same_end(tmp_path / "run", unbroken)


def test_a_full_disk_ends_the_run_at_the_next_step_and_making_room_continues_it(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, steps, train_step = tmp_path / "run", [], Trainer._train_step

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    def step(trainer: Trainer, *given: object) -> None:
        thread = trainer.saver.background._thread
        if trainer.state.done == 10 and thread is not None:
            thread.join()
        train_step(trainer, *given)  # type: ignore[arg-type]
        steps.append(trainer.state.done)
        if trainer.state.done == 9:
            patched.setattr("unmask.train.saver.save_state", full)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "_train_step", step)
        with pytest.raises(CheckpointError, match=r"step-000010 could not be written .*step-000005 is whole, so make"):
            tiny.pretrain(tiny.config(run))
    assert steps[-1] in (10, 11)
    # as it advises
    tiny.pretrain(tiny.saved_config(run), resume=run)
    tiny.assert_same_end(run, unbroken)


def test_an_error_of_the_run_waits_for_the_save_that_goes_on(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, train_step = Checkpoints.save, Trainer._train_step

    def slow(self: Checkpoints, *given: object, **settings: object) -> Path:
        time.sleep(0.2)
        return save(self, *given, **settings)  # type: ignore[arg-type]

    def step(trainer: Trainer, *given: object) -> None:
        train_step(trainer, *given)  # type: ignore[arg-type]
        if trainer.state.done == 6:
            raise RunError("run: it failed for the test")

    monkeypatch.setattr(Checkpoints, "save", slow)
    monkeypatch.setattr(Trainer, "_train_step", step)
    with pytest.raises(RunError, match="for the test"):
        tiny.pretrain(tiny.config(tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000005"]


def test_a_signal_waits_for_the_save(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, train_step = Checkpoints.save, Trainer._train_step

    def slow(self: Checkpoints, *given: object, **settings: object) -> Path:
        time.sleep(0.2)
        return save(self, *given, **settings)  # type: ignore[arg-type]

    def step(trainer: Trainer, *given: object) -> None:
        train_step(trainer, *given)  # type: ignore[arg-type]
        if trainer.state.done == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", slow)
    monkeypatch.setattr(Trainer, "_train_step", step)
    tiny.pretrain(tiny.config(tmp_path / "run"))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000005", "step-000006"]
