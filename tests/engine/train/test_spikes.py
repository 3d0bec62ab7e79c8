"""The guard against loss spikes: its rule, and runs that meet a real spike, go back, and repeat their bits."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import advice
from unmask.batch import IGNORED, PackedBatch
from unmask.config import TrainConfig, load_config
from unmask.data.stream.loader import Loader
from unmask.errors import ConfigError, RunError
from unmask.train.data import RunData
from unmask.train.logging.log import read_log
from unmask.train.run_folder import saved_config
from unmask.train.signals import StopRequest
from unmask.train.spikes import LeftOut, Spike, SpikeGuard, merged, read_spikes
from unmask.train.trainer import Trainer


def row(step: int, loss: float | None, *, skipped: int = 0) -> dict[str, Any]:
    return {"step": step, "loss": loss, "skipped": skipped}


def looked(losses: list[float | None], *, factor: float = 6.0, rows: int = 3, skipped: int = 0) -> list[Spike]:
    guard = SpikeGuard(factor, rows, [])
    found = [guard.look(row(10 * number, loss, skipped=skipped)) for number, loss in enumerate(losses, 1)]
    return [spike for spike in found if spike is not None]


QUIET: list[float | None] = [3.0, 3.2, 2.9, 3.1, 3.0, 3.2, 2.8, 3.0, 3.1]


def test_three_high_rows_in_a_row_are_a_spike() -> None:
    # median 3.0, median absolute deviation 0.1, so the limit is 3.6
    [spike] = looked([*QUIET, 3.61, 9.0, 3.7])
    assert (spike.before, spike.last, spike.loss, spike.limit) == (90, 120, 9.0, pytest.approx(3.6))
    assert looked([*QUIET, 3.61, 9.0, 3.5, 9.0, 9.0]) == []
    assert len(looked([*QUIET, 3.61, 9.0], rows=2)) == 1
    assert looked([*QUIET, 3.61, 9.0, 3.7], factor=8.0) == []


def test_rows_without_a_loss_are_high_if_updates_were_skipped() -> None:
    [spike] = looked([*QUIET, None, None, None], skipped=10)
    assert (spike.loss, str(spike)) == (None, "the loss was not finite in steps 91 to 120, where 3.600 is the limit")
    assert looked([*QUIET, None, None, None]) == []


def test_the_guard_needs_eight_rows_and_forgets_old_ones() -> None:
    assert looked([*QUIET[:7], 9.0, 9.0, 9.0]) == []
    assert len(looked([*QUIET[:8], 9.0, 9.0, 9.0])) == 1
    # 9 is usual among the last 32 rows
    assert max(spike.last for spike in looked([*QUIET, *[9.0, 9.1] * 20])) == 200


def test_a_flat_curve_has_a_least_spread() -> None:
    assert looked([1.0] * 9 + [1.05] * 3) == []
    assert len(looked([1.0] * 9 + [1.07] * 3)) == 1


def test_a_guard_that_is_made_again_from_the_log_decides_alike() -> None:
    losses = [*QUIET, 3.61, 9.0, 3.7]
    for cut in range(len(losses)):
        guard = SpikeGuard(6.0, 3, [row(10 * number, loss) for number, loss in enumerate(losses[:cut], 1)])
        found = [guard.look(row(10 * number, loss)) for number, loss in enumerate(losses[cut:], cut + 1)]
        assert [spike is not None for spike in found] == [False] * (len(losses) - cut - 1) + [True]


def test_parts_that_touch_are_one() -> None:
    parts = [LeftOut(1, 5, 2), LeftOut(0, 10, 4), LeftOut(0, 2, 3), LeftOut(0, 8, 2), LeftOut(0, 9, 3)]
    assert merged(parts) == [LeftOut(0, 2, 3), LeftOut(0, 8, 6), LeftOut(1, 5, 2)]


def cursors(data: RunData, done: int = 0) -> list[list[Any]]:
    return [[batch.cursor for batch in batches] for batches in data.steps(done)]


def run_data(tiny: ModuleType, tmp_path: Path, **changes: Any) -> RunData:
    return RunData(*tiny.text(), tiny.config(tmp_path, **changes))


def test_what_is_left_out_is_passed_over_and_nothing_else(tiny: ModuleType, tmp_path: Path) -> None:
    whole = cursors(run_data(tiny, tmp_path))
    data = run_data(tiny, tmp_path)
    # two micro-batches a step, 8 steps in each of two phases
    parts = data.read_in(2, 5)
    assert parts == [LeftOut(0, 4, 6)]
    data.leave_out(parts)
    found = cursors(data)
    assert found[:2] == whole[:2] and found[2:5] == whole[5:8] and found[8:] == whole[8:]
    assert [data.position(step).index for step in (0, 2, 3, 7)] == [0, 4, 12, 20]
    # the next spike spans what is left out already
    more = data.read_in(1, 3)
    assert more == [LeftOut(0, 2, 10)]
    data.leave_out(more)
    assert cursors(data)[:4] == [whole[0], *whole[6:8], found[5]]
    assert data.read_in(6, 10) == [LeftOut(0, 22, 4), LeftOut(1, 0, 4)]
    for done in range(12):
        assert cursors(data, done) == cursors(data)[done:]


def test_ranks_and_steps_that_grow_leave_out_the_same(tiny: ModuleType, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"tokens_per_step": 512, "first_tokens_per_step": 256, "growth_steps": 4, "phases": []}
    data = run_data(tiny, tmp_path, **changes)
    whole = cursors(data)
    data.leave_out(data.read_in(2, 4))
    found = cursors(data)
    flat = list(chain(*found))
    assert [len(step) for step in found] == [len(step) for step in whole]
    assert flat[: -len(whole[2]) - len(whole[3])] == [*chain(*whole[:2]), *chain(*whole[4:])]
    for rank in (0, 1):
        half = RunData(*tiny.text(), tiny.config(tmp_path, **changes), rank=rank, world_size=2)
        half.leave_out(data.left_out)
        assert cursors(half) == [step[rank::2] for step in found]


POISONED = range(84, 90)
"""Micro-batches whose labels are wrong, so the loss of the steps 43 to 45 rises."""

SETTINGS: dict[str, Any] = {
    "steps": 60,
    "log_every": 1,
    "save_every": 14,
    "evaluate_every": 30,
    "phases": [],
    "learning_rate": 1e-2,
    "spike_guard": 4.0,
    "spike_rows": 2,
    "keep_checkpoints": 2,
}


class PoisonedLoader(Loader):
    """Gives some micro-batches of the stream labels that nobody can predict."""

    def __init__(self, *arguments: Any, start: int, world_size: int = 1, **options: Any) -> None:
        super().__init__(*arguments, start=start, world_size=world_size, **options)
        self._at = start

    def __iter__(self) -> Iterator[PackedBatch]:
        return self

    def __next__(self) -> PackedBatch:
        batch, at = super().__next__(), self._at
        self._at += 1
        if at not in POISONED:
            return batch
        assert batch.labels is not None
        # [PAD], which no text has
        rare = batch.labels.masked_fill(batch.labels != IGNORED, 0)
        return replace(batch, labels=rare)


@pytest.fixture
def poisoned(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("unmask.train.data.Loader", PoisonedLoader)
    return tiny


def test_a_run_goes_back_from_a_spike_without_its_data_and_repeats_its_bits(
    poisoned: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unbroken = poisoned.pretrain(poisoned.config(tmp_path / "unbroken", **SETTINGS))
    [spike] = read_spikes(unbroken)
    assert (spike["first_step"], spike["step"], spike["back_to"]) == (43, 44, 42)
    assert spike["left_out"] == [{"phase": 0, "first": 84, "size": 4}]
    assert "the run goes back to step 42 and leaves out the data of the spike" in caplog.text
    rows = read_log(unbroken)
    assert [one["step"] for one in rows] == list(range(1, 61))
    assert max(one["loss"] for one in rows[46:]) < spike["limit"]

    # without the guard the spike stays in the log
    spiked = poisoned.pretrain(poisoned.config(tmp_path / "spiked", **{**SETTINGS, "spike_guard": None, "steps": 46}))
    assert read_spikes(spiked) == []
    assert max(one["loss"] for one in read_log(spiked)[42:45]) > spike["limit"]

    # stopped before the spike, in it, right after going back, and later
    run, places = tmp_path / "stopped", [(20, 0), (43, 0), (43, 1), (50, 1)]
    stops: list[StopRequest] = []
    original, enter = Trainer._train_step, StopRequest.__enter__

    def train_step(self: Trainer, *arguments: Any) -> None:
        original(self, *arguments)
        if places and places[0] == (self.state.done, len(read_spikes(self.folder))):
            places.pop(0)
            stops[-1].name = "SIGTERM"

    monkeypatch.setattr(StopRequest, "__enter__", lambda self: stops.append(self) or enter(self))
    monkeypatch.setattr(Trainer, "_train_step", train_step)
    poisoned.pretrain(poisoned.config(run, **SETTINGS))
    for _ in range(4):
        poisoned.pretrain(saved_config(run), resume=run)
    assert len(stops) == 5 and not places
    poisoned.assert_same_end(run, unbroken)
    assert read_spikes(run) == read_spikes(unbroken)


def test_spikes_that_come_again_stop_the_run_with_a_way_to_go_on(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.train import trainer

    original = trainer.set_learning_rate
    steps: list[float] = []

    def jump(optimizer: Any, rate: float) -> None:
        # the learning rate itself is poisoned, whatever the data
        original(optimizer, rate if not 0.0049 < rate < 0.0053 else 3.0)
        steps.append(rate)

    monkeypatch.setattr(trainer, "set_learning_rate", jump)
    config = tiny.config(tmp_path / "run", **{**SETTINGS, "spike_limit": 2})
    with pytest.raises(RunError) as caught:
        tiny.pretrain(config)
    told = str(caught.value)
    assert "after 2 spikes whose data is left out (train.spike_limit); start a new run with a lower" in told
    assert told.endswith(f"or go on with `unmask pretrain --resume {tmp_path / 'run'} --train.spike_limit 4`")
    assert len(read_spikes(tmp_path / "run")) == 2
    monkeypatch.setattr(trainer, "set_learning_rate", original)
    run = tiny.pretrain(saved_config(tmp_path / "run", {"train.spike_limit": 4}), resume=tmp_path / "run")
    assert read_log(run)[-1]["step"] == 60


def test_a_spike_before_the_first_checkpoint_is_told_once(
    poisoned: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="unmask")
    run = poisoned.pretrain(poisoned.config(tmp_path / "run", **{**SETTINGS, "steps": 50, "save_every": 100}))
    assert read_spikes(run) == []
    assert caplog.text.count("there is no checkpoint from before, so the run goes on with it") == 1


def test_a_checkpoint_from_before_a_spike_has_to_be_kept() -> None:
    def train(**changes: Any) -> TrainConfig:
        return TrainConfig(spike_guard=6.0, log_every=100, save_every=100, **changes)

    advice.follow(
        lambda: train(keep_checkpoints=3),
        "spike_guard needs a checkpoint from before a spike of spike_rows, 3, times log_every, 100, steps, got "
        "keep_checkpoints 3 of save_every 100; give keep_checkpoints 4 or more",
        lambda: train(keep_checkpoints=4),
    )
    with pytest.raises(ConfigError):
        TrainConfig(spike_guard=0.0)
    advice.follow(
        lambda: load_config(None, {"train.spike_rows": 2}),
        "train.spike_rows is 2 but train.spike_guard is None, so no spike is looked for; give train.spike_guard the "
        "factor of the limit or leave train.spike_rows out",
        lambda: load_config(None, {"train.spike_rows": 2, "train.spike_guard": 6}),
        lambda: load_config(None, {"train.spike_guard": 6}),
    )
