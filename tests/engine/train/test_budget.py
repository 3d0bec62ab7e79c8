"""What ends a run: steps, epochs, or the clock; and the learning rate that falls to 0 there."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unmask.config import MaskingConfig, PhaseConfig, RunConfig
from unmask.errors import CheckpointError, RunError
from unmask.train.checkpoint.state import load_facts
from unmask.train.data import RunData
from unmask.train.logging.log import read_evaluations, read_log
from unmask.train.run_folder import saved_config
from unmask.train.step import TrainingStep


def by(tiny: ModuleType, run: Path, **changes: Any) -> RunConfig:
    """A run of one phase whose budget, one of steps, epochs and minutes, is among the changes."""
    settings = {"phases": [], "log_every": 1, "evaluate_every": 100, "save_every": 100, "steps": None}
    config: RunConfig = tiny.config(run, **(settings | changes))
    return config


def test_epochs_are_steps_that_read_the_text_so_often(tiny: ModuleType, tmp_path: Path) -> None:
    store, tokenizer = tiny.text()
    for epochs in (0.25, 1.0, 3.0):
        data = RunData(store, tokenizer, by(tiny, tmp_path, epochs=epochs))
        tokens = data.stream(data.phases[0]).tokens_per_epoch
        assert epochs * tokens <= data.num_steps * 256 < epochs * tokens + 256
        assert data.phases[-1].end == data.num_steps


@pytest.mark.parametrize("epochs", [0.05, 0.25, 1.0])
def test_epochs_count_the_smaller_steps_of_a_run_whose_steps_grow(
    epochs: float, tiny: ModuleType, tmp_path: Path
) -> None:
    growing = {"tokens_per_step": 512, "first_tokens_per_step": 128, "growth_steps": 12}
    data = RunData(*tiny.text(), by(tiny, tmp_path, epochs=epochs, **growing))
    needed = epochs * data.stream(data.phases[0]).tokens_per_epoch
    assert data.sizes.before(data.num_steps - 1) * 128 < needed <= data.sizes.before(data.num_steps) * 128


def test_steps_that_grow_read_each_micro_batch_once(tiny: ModuleType, tmp_path: Path) -> None:
    growing = {"tokens_per_step": 512, "first_tokens_per_step": 128, "growth_steps": 6}
    data = RunData(*tiny.text(), by(tiny, tmp_path, steps=8, **growing))
    even = RunData(*tiny.text(), by(tiny, tmp_path, steps=100))
    read = list(data.steps(0))
    assert [len(batches) for batches in read] == [1, 1, 2, 2, 3, 3, 4, 4]
    cursors = [batch.cursor for batches in read for batch in batches]
    assert cursors == [even.stream(even.phases[0]).locate(number) for number in range(20)]
    assert data.position(5).index == 9


def test_epochs_are_counted_phase_by_phase(tiny: ModuleType, tmp_path: Path) -> None:
    """A short maximum length has more [CLS] and [SEP] to read."""
    store, tokenizer = tiny.text()
    phases = [PhaseConfig(share=0.5, max_length=16), PhaseConfig(share=0.5, max_length=32)]
    data = RunData(store, tokenizer, by(tiny, tmp_path, epochs=2.0, phases=phases))
    read = sum((phase.end - phase.first) * 256 / data.stream(phase).tokens_per_epoch for phase in data.phases)
    assert read == pytest.approx(2.0, rel=0.01)


def test_a_run_of_epochs_repeats_the_bits_of_the_run_of_its_steps(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = by(tiny, tmp_path / "epochs", epochs=0.1, save_every=3)
    tiny.pretrain(config)
    steps = read_log(tmp_path / "epochs")[-1]["step"]
    assert f"{steps:,} steps make about 0.1 epochs" in caplog.text
    assert saved_config(tmp_path / "epochs") == config
    tiny.pretrain(by(tiny, tmp_path / "steps", steps=steps, save_every=3))
    tiny.assert_same_end(tmp_path / "epochs", tmp_path / "steps")
    # and a resumed one too
    for checkpoint in (tmp_path / "epochs" / "checkpoints").glob(f"step-{steps:06d}"):
        shutil.rmtree(checkpoint)
    tiny.pretrain(saved_config(tmp_path / "epochs"), resume=tmp_path / "epochs")
    tiny.assert_same_end(tmp_path / "epochs", tmp_path / "steps")


def test_more_epochs_go_on_and_fewer_than_done_are_refused(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(by(tiny, run, epochs=0.06))
    done = read_log(run)[-1]["step"]
    with pytest.raises(RunError, match=rf"train\.epochs 0\.03 is \d+ steps but {done} steps are done; give at least"):
        tiny.pretrain(saved_config(run, {"train.epochs": 0.03}), resume=run)
    tiny.pretrain(saved_config(run, {"train.epochs": 0.08}), resume=run)
    assert read_log(run)[-1]["step"] > done
    assert "train.epochs 0.06 is now train.epochs 0.08: the learning rate decays by the whole run" in caplog.text
    tiny.pretrain(saved_config(run, {"train.steps": 7}), resume=run)
    assert read_log(run)[-1]["step"] == 7


@pytest.mark.parametrize("budget", [{"steps": 16}, {"epochs": 0.2}])
def test_a_mask_rate_reaches_its_end_with_the_last_step(
    tiny: ModuleType, tmp_path: Path, budget: dict[str, Any]
) -> None:
    config = replace(by(tiny, tmp_path / "run", **budget), masking=MaskingConfig(rate=0.1, rate_end=0.3))
    data = RunData(*tiny.text(), config)
    stream = data.stream(data.phases[0])
    assert stream._rate_over == data.num_steps * 2
    assert stream._rate_at(data.num_steps * 2) == pytest.approx(0.3)


def test_other_epochs_under_a_scheduled_mask_rate_are_refused_with_the_saved_number(
    tiny: ModuleType, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = by(tiny, run, epochs=0.1)
    tiny.pretrain(replace(config, masking=MaskingConfig(rate_end=0.3)))
    with pytest.raises(
        CheckpointError, match=r"by the end of train\.epochs 0\.1; .* resume with the saved train\.epochs 0"
    ):
        tiny.pretrain(saved_config(run, {"train.epochs": 0.2}), resume=run)
    tiny.pretrain(saved_config(run, {"train.epochs": 0.1}), resume=run)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock for deadlines that each update moves on by a second."""
    now = [500.0]
    original = TrainingStep.update

    def update(step: TrainingStep) -> Any:
        now[0] += 1.0
        return original(step)

    monkeypatch.setattr(TrainingStep, "update", update)
    monkeypatch.setattr("unmask.train.deadline.time.monotonic", lambda: now[0])
    return now


def test_the_clock_ends_a_run_with_its_last_checkpoint_and_evaluation(
    tiny: ModuleType, tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(by(tiny, run, minutes=10 / 60, warmup_steps=0, evaluate_every=100, save_every=100))
    rows = read_log(run)
    assert [row["step"] for row in rows] == list(range(1, 11))
    peak = tiny.config(run).optimizer.learning_rate
    assert [row["learning_rate"] for row in rows] == pytest.approx([peak * (1 - step / 10) for step in range(10)])
    # a tenth of the minutes is one step here
    assert [row["step"] for row in read_evaluations(run)] == list(range(11))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000009", "step-000010"]
    assert "the clock decides its learning rate and its last step, so no other run repeats it" in caplog.text
    assert "done: 10 steps" in caplog.text


def test_a_resumed_run_has_the_minutes_that_are_left(tiny: ModuleType, tmp_path: Path, clock: list[float]) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        stop_at(patched, 4)
        tiny.pretrain(by(tiny, run, minutes=10 / 60, evaluate_every=4))
    assert load_facts(run / "checkpoints" / "step-000004" / "training").seconds == 4.0
    clock[0] += 1000.0
    tiny.pretrain(saved_config(run), resume=run)
    rows = read_log(run)
    assert rows[-1]["step"] == 10
    assert rows[4]["learning_rate"] == pytest.approx(tiny.config(run).optimizer.learning_rate * (1 - 4 / 10))
    # at its end there is nothing left
    tiny.pretrain(saved_config(run), resume=run)
    assert read_log(run) == rows
    assert [row["step"] for row in read_evaluations(run)] == list(range(11))
    tiny.pretrain(saved_config(run, {"train.minutes": 12 / 60}), resume=run)
    assert read_log(run)[-1]["step"] == 12


def test_evaluations_and_saves_take_of_the_minutes(
    tiny: ModuleType, tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.train.evaluate import score_model

    def slow(*arguments: Any, **options: Any) -> Any:
        clock[0] += 3.0
        return score_model(*arguments, **options)

    monkeypatch.setattr("unmask.train.trainer.score_model", slow)
    tiny.pretrain(by(tiny, tmp_path / "run", minutes=10 / 60, evaluate_every=4, log_every=3))
    # three seconds before the first step and three after the fourth
    assert [row["step"] for row in read_log(tmp_path / "run")] == [3, 4]
    assert [row["step"] for row in read_evaluations(tmp_path / "run")] == [0, 4]
    # the last save came before the last minute, and a resumed run knows all the same that it is over
    tiny.pretrain(saved_config(tmp_path / "run"), resume=tmp_path / "run")
    assert [row["step"] for row in read_log(tmp_path / "run")] == [3, 4]


def test_evaluations_and_saves_come_at_tenths_of_the_minutes_too(
    tiny: ModuleType, tmp_path: Path, clock: list[float]
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(by(tiny, run, minutes=40 / 60, evaluate_every=10, save_every=100, keep_checkpoints=100))
    tenths = list(range(4, 41, 4))
    assert [row["step"] for row in read_evaluations(run)] == sorted({0, 10, 30, *tenths})
    assert sorted(int(path.name[5:]) for path in (run / "checkpoints").iterdir()) == tenths


def test_a_finished_run_says_so_at_once_and_a_larger_budget_goes_on(
    tiny: ModuleType, tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    steps, minutes, epochs = tmp_path / "steps", tmp_path / "minutes", tmp_path / "epochs"
    tiny.pretrain(tiny.config(steps, steps=2, warmup_steps=0, phases=[]))
    tiny.pretrain(by(tiny, minutes, minutes=2 / 60))
    tiny.pretrain(by(tiny, epochs, epochs=0.03))
    for run, budget, more in ((steps, "steps", 3), (minutes, "minutes", 3 / 60), (epochs, "epochs", 0.045)):
        caplog.clear()
        tiny.pretrain(saved_config(run), resume=run)
        place = run / "checkpoints" / "step-000002"
        told = f"already finished: 2 steps, model in {place}; a larger --train.{budget} goes on"
        assert caplog.messages == [told]
        tiny.pretrain(saved_config(run, {f"train.{budget}": more}), resume=run)
        assert (run / "checkpoints" / "step-000003").is_dir()


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    from unmask.train.logging.progress import Display

    original: Callable[[Display], None] = Display.advance

    def advance(display: Display) -> None:
        original(display)
        if display._done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Display, "advance", advance)


def test_the_state_of_a_run_of_steps_has_no_time(unbroken: Path) -> None:
    state = json.loads((unbroken / "checkpoints" / "step-000016" / "training" / "state.json").read_text())
    assert "seconds" not in state


@pytest.mark.parametrize("seconds", [-1.0, "much"])
def test_a_time_that_is_none_is_refused(tiny: ModuleType, tmp_path: Path, clock: list[float], seconds: object) -> None:
    run = tmp_path / "run"
    tiny.pretrain(by(tiny, run, minutes=2 / 60))
    state = max((run / "checkpoints").iterdir()) / "training" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"seconds": seconds}))
    with pytest.raises(CheckpointError, match=r"state\.json, seconds.*; remove it to go on from the one before it"):
        load_facts(state.parent)


@pytest.fixture
def _no_notice(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert "warm-up" not in caplog.text


def test_a_warm_up_longer_than_the_run_is_cut_with_a_notice(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.pretrain(tiny.config(tmp_path / "run", steps=2, warmup_steps=100, phases=[], log_every=1))
    notice = (
        "optimizer.warmup_steps is 100, more than the steps of the run, 2; the warm-up is cut to a tenth of them, 1"
    )
    assert notice in caplog.messages
    peak = tiny.config(tmp_path).optimizer.learning_rate
    assert [row["learning_rate"] for row in read_log(tmp_path / "run")] == [peak, peak / 2]
    assert saved_config(tmp_path / "run").optimizer.warmup_steps == 100


@pytest.mark.usefixtures("_no_notice")
def test_a_warm_up_that_fits_is_no_notice(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.trainer(tiny.config(tmp_path, steps=4, warmup_steps=4, phases=[]), tmp_path)
