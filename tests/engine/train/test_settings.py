"""What a run is configured with reaches the part that it is meant for, in a resumed run too."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from unmask.batch import Cursor
from unmask.config import (
    CompositionConfig,
    KernelsConfig,
    MaskingConfig,
    ObjectiveConfig,
    RunConfig,
    StreamConfig,
)
from unmask.data.stream import Stream
from unmask.errors import CheckpointError
from unmask.train.checkpoint.resume import inherit
from unmask.train.checkpoint.state import Facts, load_facts, state_of
from unmask.train.data import RunData
from unmask.train.evaluate import score_model
from unmask.train.logging.log import read_log
from unmask.train.run_folder import saved_config
from unmask.train.schedule import StepSchedule
from unmask.train.step import StepReport, TrainingStep
from unmask.train.trainer import Trainer


def trainer_of(tiny: ModuleType, folder: Path, config: RunConfig) -> Trainer:
    return tiny.trainer(config, folder)  # type: ignore[no-any-return]


def facts_of(run: Path, step: int) -> Facts:
    return load_facts(run / "checkpoints" / f"step-{step:06d}" / "training")


def test_optimizer_and_step_have_the_settings_of_the_run(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.config(tmp_path, learning_rate=2e-3, weight_decay=0.3, beta1=0.8, beta2=0.7, eps=1e-4, clip_norm=0.25)
    trainer = trainer_of(tiny, tmp_path, replace(config, kernels=KernelsConfig(last_layer_rows=False)))
    decayed, others = trainer.state.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    for group in (decayed, others):
        assert (group["betas"], group["eps"]) == ((0.8, 0.7), 1e-4)
        assert float(group["lr"]) == pytest.approx(2e-3)
    assert (trainer.step.clip_norm, trainer.step.all_rows) == (0.25, True)
    assert trainer_of(tiny, tmp_path, config).step.all_rows is False


def test_activations_have_the_dtype_that_is_asked_for(tiny: ModuleType, tmp_path: Path) -> None:
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        trainer = tiny.trainer(tiny.config(tmp_path, dtype=name), tmp_path)
        (batch,) = next(trainer.data.steps(0))[:1]
        assert trainer.state.model(batch).dtype == dtype


def test_every_update_has_the_rate_of_its_step_before_and_after_a_stop(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    original = TrainingStep.update

    def update(step: TrainingStep) -> Any:
        rates.extend({float(group["lr"]) for group in step.optimizer.param_groups})
        if len(rates) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(step)

    monkeypatch.setattr(TrainingStep, "update", update)
    run = tmp_path / "run"
    config = tiny.config(run, log_every=1)
    tiny.pretrain(config)
    assert len(rates) == 7
    tiny.pretrain(saved_config(run), resume=run)
    optimizer, steps = config.optimizer, config.train.steps
    schedule = StepSchedule(optimizer, steps)
    expected = [schedule(step) for step in range(steps)]
    assert rates == pytest.approx(expected)
    assert [row["learning_rate"] for row in read_log(run)] == expected


def test_the_time_of_saves_and_evaluations_is_in_no_rate(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, passed = time.perf_counter, 0.0

    def slow(original: Callable[..., Any]) -> Callable[..., Any]:
        def slower(*arguments: Any, **options: Any) -> Any:
            nonlocal passed
            passed += 1000.0
            return original(*arguments, **options)

        return slower

    monkeypatch.setattr("unmask.train.trainer.score_model", slow(score_model))
    monkeypatch.setattr("unmask.train.training_state.state_of", slow(state_of))
    monkeypatch.setattr("unmask.train.logging.metrics.time.perf_counter", lambda: clock() + passed)
    tiny.pretrain(tiny.config(tmp_path / "a", steps=5, phases=[], log_every=1, save_every=2, evaluate_every=3))
    # evaluations before the first step and after two more, three saves
    assert passed == 6000.0
    assert all(row["seconds_per_step"] < 100.0 for row in read_log(tmp_path / "a"))


def test_operations_of_all_micro_batches_are_set_against_the_peak(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.train.trainer.peak_flops", lambda device: 1e12)
    monkeypatch.setattr("unmask.train.logging.metrics.FlopCount.training", lambda count, batch: 5e9)
    tiny.pretrain(tiny.config(tmp_path / "a", steps=4, phases=[], log_every=2))
    for row in read_log(tmp_path / "a"):
        assert row["mfu"] * 1e12 * row["seconds_per_step"] == pytest.approx(2 * 5e9)


def test_as_many_checkpoints_stay_as_are_asked_for(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.pretrain(tiny.config(tmp_path / "a", steps=4, phases=[], save_every=1, keep_checkpoints=3))
    kept = sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000003", "step-000004"]


def test_a_disk_without_room_for_a_checkpoint_stops_the_run_before_it_is_written(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "unmask.train.checkpoint.checkpoints.shutil.disk_usage", lambda folder: SimpleNamespace(free=10_000)
    )
    with pytest.raises(CheckpointError, match=r"step-000004 could not be written \(the disk is too full\)"):
        tiny.pretrain(tiny.config(tmp_path / "a", steps=4, phases=[]))


def test_a_resumed_run_knows_its_place_its_counts_its_leftovers_and_another_machine(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=4, phases=[], threads=1))
    facts = facts_of(run, 4)
    (run / "checkpoints" / ".step-000006.partial").mkdir()
    monkeypatch.setattr("unmask.train.pretrain.load_facts", lambda folder: replace(facts, skipped=7))
    monkeypatch.setattr("unmask.train.trainer.machine", lambda *of: facts.machine | {"torch": "9.9"})
    asked: list[Any] = []
    threads: list[int] = []
    original = RunData.steps

    def steps(run_data: RunData, *arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        return original(run_data, *arguments, **options)

    monkeypatch.setattr(RunData, "steps", steps)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    caplog.clear()
    tiny.pretrain(saved_config(run, {"train.steps": 6}), resume=run)
    assert facts.cursor is not None
    assert asked == [(4, Cursor(*facts.cursor))]
    assert threads == [1]
    assert facts_of(run, 6).skipped == 7
    assert not list((run / "checkpoints").glob(".*"))
    assert f"torch was {facts.machine['torch']}, now 9.9" in caplog.text


def test_a_resumed_run_keeps_the_threads_and_the_dtype_that_it_leaves_open(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.pretrain(tiny.config(tmp_path / "run", steps=1, warmup_steps=0, phases=[], threads=1))
    facts = replace(facts_of(tmp_path / "run", 1), threads=3)
    caplog.clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert inherit(tiny.config(tmp_path, threads=None, dtype="auto"), facts).train.threads == 3
    assert caplog.messages == [
        "train.dtype is auto: activations stay in float32, as saved",
        "train.threads is auto: the run keeps 3 threads, as saved, where this machine would take 64; with "
        "--train.threads 64 sums may round differently",
    ]
    assert inherit(tiny.config(tmp_path, threads=3, dtype="bfloat16"), facts).train.dtype == "bfloat16"
    assert len(caplog.messages) == 2


def test_skipped_updates_are_a_streak_only_one_after_the_other(tiny: ModuleType, tmp_path: Path) -> None:
    state = trainer_of(tiny, tmp_path, tiny.config(tmp_path)).state
    one = torch.ones(1)
    for skipped in (1.0, 1.0, 0.0, 1.0):
        report = StepReport(one[0], one, one, one, one[0], torch.tensor(skipped))
        state.count(report, tokens=3, cursor=None)
    assert (int(state.skipped), int(state.skipped_in_a_row), state.done, state.tokens) == (3, 1, 4, 12)


def test_a_stream_is_laid_out_as_the_run_says(tiny: ModuleType, tmp_path: Path) -> None:
    store, tokenizer = tiny.text()
    composition = CompositionConfig(
        strategy="bm25",
        bm25_walk="star",
        bm25_buffer=7,
        bm25_query_terms=9,
        scope="sequence",
        weights={"source-0": 2.0},
    )
    masking = MaskingConfig(strategy="whole_word", rate=0.3, split=(0.5, 0.3, 0.2), static_masks=3)
    base = tiny.config(tmp_path, max_documents=60, held_out_fraction=0.2)
    config = replace(base, composition=composition, masking=masking, seed=5)
    run_data = RunData(store, tokenizer, config, composed=tmp_path)
    phase = run_data.phases[1]
    stream = run_data.stream(phase)
    settings = StreamConfig(max_length=32, micro_batch_tokens=128, max_documents=60, held_out_fraction=0.2, workers=0)
    common: dict[str, Any] = {"composition": composition, "masking": masking, "seed": phase.seed}
    alone = Stream(store, settings, tokenizer.ordinary_ids, **common)
    assert (stream.config, stream.composition, stream.masking) == (settings, composition, masking)
    # the fingerprint holds all that the micro-batches depend on, the seed of the phase too
    assert stream.fingerprint == alone.fingerprint
    assert stream.composes_ahead
    held_out = run_data.held_out(phase)
    assert held_out is not None
    assert (held_out.config, held_out.masking, held_out.split) == (settings, masking, "held_out")
    assert (
        held_out.fingerprint == Stream(store, settings, tokenizer.ordinary_ids, **common, split="held_out").fingerprint
    )


@pytest.mark.parametrize(
    ("objective", "task", "masking"),
    [
        (ObjectiveConfig(nsp=1.0), "nsp", "token"),
        (ObjectiveConfig(sop=1.0), "sop", "token"),
        (ObjectiveConfig(mlm=0.0, clm=1.0), "nsp", "next_token"),
    ],
)
def test_pairs_and_labels_are_those_of_the_objective(
    tiny: ModuleType, tmp_path: Path, objective: ObjectiveConfig, task: str, masking: str
) -> None:
    causal = objective.clm > 0
    composition = CompositionConfig() if causal else CompositionConfig(strategy="pairs", short_pairs=0.7)
    base = tiny.config(tmp_path)
    model = replace(base.model, causal=causal)
    run_data = RunData(*tiny.text(), replace(base, model=model, composition=composition, objective=objective))
    for found in (run_data.stream(run_data.phases[0]), run_data.held_out(run_data.phases[0])):
        assert found is not None
        assert (found.pair_task, found.composition.short_pairs) == (task, composition.short_pairs)
        assert found.masking == (MaskingConfig() if masking == "token" else masking)


def test_a_scheduled_mask_rate_goes_on_from_phase_to_phase(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.config(tmp_path)
    run_data = RunData(*tiny.text(), replace(config, masking=MaskingConfig(rate=0.1, rate_end=0.3)))
    first, second = (run_data.stream(phase) for phase in run_data.phases)
    one, two = (stream.masking for stream in (first, second))
    assert isinstance(one, MaskingConfig) and isinstance(two, MaskingConfig)
    assert (one.rate, one.rate_end, two.rate_end) == pytest.approx((0.1, 0.2, 0.3))
    # eight steps of two micro-batches each
    assert first._rate_at(8) == Fraction(3, 20)
    assert first._rate_at(16) == second._rate_at(0) == Fraction(1, 5)


def test_a_mask_rate_with_steps_of_its_own_gets_there_in_them_and_stays(tiny: ModuleType, tmp_path: Path) -> None:
    def streams(rate_steps: int, **changes: Any) -> list[Any]:
        masking = MaskingConfig(rate=0.1, rate_end=0.3, rate_steps=rate_steps)
        run_data = RunData(*tiny.text(), replace(tiny.config(tmp_path, **changes), masking=masking))
        return [run_data.stream(phase) for phase in run_data.phases]

    # two phases of eight steps with two micro-batches each
    first, second = streams(4)
    assert [first._rate_at(index) for index in (0, 4, 8, 15)] == [
        Fraction(1, 10),
        Fraction(1, 5),
        Fraction(3, 10),
        Fraction(3, 10),
    ]
    assert second._rate_at(0) == second._rate_at(15) == Fraction(3, 10)
    first, second = streams(12)
    assert first._rate_at(16) == second._rate_at(0) == pytest.approx(0.1 + 0.2 * 8 / 12)
    assert second._rate_at(8) == second._rate_at(15) == Fraction(3, 10)
    # it is no part of the run's length
    [short], [long] = streams(12, phases=[], steps=8), streams(12, phases=[], steps=100)
    assert short.fingerprint == long.fingerprint
    assert short._rate_at(8) == Fraction(1, 10) + Fraction(1, 5) * 8 / 24


def test_micro_batches_go_on_where_the_steps_are_with_the_workers_asked_for(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    class Stub:
        """Batches by number; a second of waiting in all."""

        def __init__(self, stream: object, **options: Any) -> None:
            made.append({name: options[name] for name in ("start", "workers")})
            self.waited_seconds = 1.0
            self.batches = iter(range(options["start"], 1000))

        def __iter__(self) -> Iterator[int]:
            return self.batches

        def close(self) -> None:
            """Nothing runs."""

    monkeypatch.setattr("unmask.train.data.Loader", Stub)
    run_data = RunData(*tiny.text(), tiny.config(tmp_path, workers=3))
    steps: list[Any] = list(run_data.steps(5))
    assert steps == [[10, 11], [12, 13], [14, 15], *([k, k + 1] for k in range(0, 16, 2))]
    assert made == [{"start": 10, "workers": 3}, {"start": 0, "workers": 3}]
    assert run_data.waited_seconds == 2.0
    assert next(run_data.steps(8)) == [0, 1]
