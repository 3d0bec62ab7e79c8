import contextlib
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from unmask.config import KernelsConfig, MaskingConfig, RunConfig
from unmask.errors import ConfigError, RunError
from unmask.interop.checkpoint_folder import verify_checkpoint
from unmask.model import PretrainingModel
from unmask.model.checkpointing import LayerCheckpointing
from unmask.objectives import build_objectives
from unmask.terminal import install_messages
from unmask.train.data import RunData
from unmask.train.evaluate import score_model
from unmask.train.logging.log import RunLog, read_evaluations, read_log
from unmask.train.logging.provenance import machine
from unmask.train.run_folder import saved_config
from unmask.train.trainer import Trainer
from unmask_kernels import BackendUnavailable


def test_a_run_leaves_its_configuration_a_log_and_the_newest_checkpoints(tiny: ModuleType, unbroken: Path) -> None:
    assert saved_config(unbroken) == tiny.config(unbroken)
    rows = read_log(unbroken)
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 15, 16]
    evaluations = read_evaluations(unbroken)
    assert [(row["step"], row["max_length"]) for row in evaluations] == [(0, 16), (8, 16), (16, 32)]
    needed = {"loss", "learning_rate", "tokens_per_second", "data_wait", "gradient_norm", "masked_accuracy", "tokens"}
    assert all(needed <= row.keys() for row in rows)
    assert all({"loss", "perplexity", "masked_accuracy"} <= row.keys() for row in evaluations)
    kept = sorted(p.name for p in (unbroken / "checkpoints").iterdir())
    assert kept == ["step-000015", "step-000016"]
    files = verify_checkpoint(unbroken / "checkpoints" / "step-000016")["files"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "training/state.json"} <= files.keys()
    settings = json.loads((unbroken / "checkpoints" / "step-000016" / "config.json").read_text())
    assert settings["tokenizer_hash"] == tiny.text()[1].hash


def test_a_checkpoint_tells_transformers_how_many_positions_it_has(tiny: ModuleType, tmp_path: Path) -> None:
    base = tiny.config(tmp_path / "run", steps=1, warmup_steps=1, phases=[])
    tiny.pretrain(replace(base, model=replace(base.model, max_positions=128)))
    folder = tmp_path / "run" / "checkpoints" / "step-000001"
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 128
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == 128


def test_activation_checkpointing_computes_layers_again_and_keeps_the_bits(
    tiny: ModuleType, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointed = []
    run = LayerCheckpointing.run
    monkeypatch.setattr(LayerCheckpointing, "run", lambda *given: (checkpointed.append(given[1]), run(*given))[1])
    tiny.pretrain(tiny.config(tmp_path / "run", activation_checkpointing=True))
    assert checkpointed
    tiny.assert_same_end(tmp_path / "run", unbroken)


def test_the_padding_of_a_checkpoint_is_that_of_its_tokenizer(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.text()[1], "pad_id", 7)
    tiny.pretrain(tiny.config(tmp_path / "run", steps=1, warmup_steps=1, phases=[]))
    config = json.loads((tmp_path / "run" / "checkpoints" / "step-000001" / "config.json").read_text())
    assert config["pad_token_id"] == 7


def test_the_first_speed_leaves_out_what_came_before_the_loop(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.perf_counter
    passed = 0.0

    def slow(*arguments: Any, **options: Any) -> RunLog:
        nonlocal passed
        passed = 1000.0
        return RunLog(*arguments, **options)

    monkeypatch.setattr("unmask.train.trainer.RunLog", slow)
    monkeypatch.setattr("unmask.train.logging.metrics.time.perf_counter", lambda: clock() + passed)
    tiny.pretrain(tiny.config(tmp_path / "a", steps=4, phases=[]))
    assert read_log(tmp_path / "a")[0]["seconds_per_step"] < 1.0 / 3


def test_learning_happens_and_the_tokens_are_the_real_ones(unbroken: Path) -> None:
    rows = read_log(unbroken)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2
    assert 0.9 * 16 * 256 < rows[-1]["tokens"] <= 16 * 256
    assert all(0.0 <= row["data_wait"] <= 1.0 and row["tokens_per_second"] > 0 for row in rows)


def test_a_run_says_how_many_epochs_it_will_make(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny.config(tmp_path, held_out_fraction=0.0, steps=1000, phases=[])
    tiny.trainer(config, tmp_path)
    # every document with its [CLS] and [SEP], cut where it is longer than 30 tokens
    tokens = sum(int(n) + 2 * -(-int(n) // 30) for n in tiny.text()[0].lengths)
    counts = (
        f"data: an epoch reads {tiny.text()[0].lengths.sum():,} tokens of the store, {tokens:,} with [CLS] and [SEP]"
    )
    assert f"{counts}; 1,000 steps make about {1000 * 256 / tokens:,.1f} epochs" in caplog.messages


def test_the_tokens_of_both_parts_are_those_of_the_store(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.trainer(tiny.config(tmp_path, held_out_fraction=0.2), tmp_path)
    found = re.search(r"an epoch reads ([\d,]+) tokens of the store, .*; ([\d,]+) tokens are held out", caplog.text)
    assert found is not None
    assert sum(int(number.replace(",", "")) for number in found.groups()) == tiny.text()[0].lengths.sum()


@pytest.mark.parametrize(("name", "predicts"), [("mlm", True), ("nsp", False)])
def test_operations_on_masked_rows_count_where_the_run_predicts_tokens(
    tiny: ModuleType, tmp_path: Path, name: str, predicts: bool
) -> None:
    trainer = tiny.trainer(tiny.config(tmp_path), tmp_path)
    trainer = replace(trainer, model=trainer.state.model, objectives=build_objectives({name: 1.0}))
    assert trainer.flops.predicts_tokens == predicts


def test_the_same_configuration_gives_the_same_bits_with_any_number_of_workers(
    tiny: ModuleType, tmp_path: Path, unbroken: Path
) -> None:
    tiny.pretrain(tiny.config(tmp_path / "workers", workers=2))
    expected, got = tiny.parameters(unbroken), tiny.parameters(tmp_path / "workers")
    assert expected.keys() == got.keys()
    assert all(torch.equal(value, got[name]) for name, value in expected.items())


def test_another_seed_gives_another_model(tiny: ModuleType, tmp_path: Path, unbroken: Path) -> None:
    tiny.pretrain(replace(tiny.config(tmp_path / "a"), seed=2))
    ours, theirs = tiny.parameters(tmp_path / "a"), tiny.parameters(unbroken)
    assert not any(torch.equal(value, theirs[name]) for name, value in ours.items() if value.ndim == 2)


def test_every_phase_reads_and_is_evaluated_at_its_own_length(tiny: ModuleType, tmp_path: Path) -> None:
    seen: list[int] = []
    evaluated: list[int] = []
    original = PretrainingModel.forward

    def watch(model: torch.nn.Module, batch: object, **options: object) -> torch.Tensor:
        (seen if model.training else evaluated).append(batch.documents.max_seqlen)  # type: ignore[attr-defined]
        return original(model, batch, **options)  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PretrainingModel, "forward", watch)
        tiny.pretrain(tiny.config(tmp_path / "a"))
    assert seen == [16] * 16 + [32] * 16
    once = 512 // 128
    assert evaluated == [16] * once + [16] * once + [32] * once


def test_the_evaluation_before_the_first_step_changes_no_bit(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with dropout, which draws by the keys of documents and not from a generator."""

    def config(run: Path) -> RunConfig:
        base = tiny.config(run, steps=4, phases=[], evaluate_every=100)
        return replace(base, model=replace(base.model, hidden_dropout=0.1, attention_dropout=0.1))

    tiny.pretrain(config(tmp_path / "with"))
    original = Trainer._evaluate
    monkeypatch.setattr(Trainer, "_evaluate", lambda self, *rest: self.state.done and original(self, *rest))
    tiny.pretrain(config(tmp_path / "without"))
    assert [row["step"] for row in read_evaluations(tmp_path / "with")] == [0, 4]
    assert [row["step"] for row in read_evaluations(tmp_path / "without")] == [4]
    expected, got = tiny.parameters(tmp_path / "without"), tiny.parameters(tmp_path / "with")
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    assert read_evaluations(tmp_path / "with")[1:] == read_evaluations(tmp_path / "without")


def test_an_untrained_model_is_scored_once_however_often_the_run_starts(tiny: ModuleType, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("unmask.train.trainer.TrainingStep.__call__", lambda *of: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tiny.pretrain(tiny.config(run))
    # a run that fails before its first row leaves nothing
    assert not run.exists()
    tiny.pretrain(tiny.config(run, steps=1, phases=[]))
    first = read_evaluations(run)
    assert [row["step"] for row in first] == [0, 1]
    assert first[0]["loss"] == pytest.approx(math.log(tiny.text()[0].vocab_size), abs=0.3)
    # one that is killed leaves its first evaluation
    shutil.rmtree(run / "checkpoints")
    (run / "evaluation.jsonl").write_text(json.dumps(first[0]) + "\n")
    evaluated: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        original = Trainer._evaluate
        patched.setattr(
            Trainer, "_evaluate", lambda self, *rest: (evaluated.append(self.state.done), original(self, *rest))[1]
        )
        tiny.pretrain(saved_config(run), resume=run)
    assert evaluated == [1]
    assert read_evaluations(run) == first


def test_a_stop_before_the_first_step_saves_nothing_and_the_run_starts_again(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"

    def stopped(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return score_model(*arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("unmask.train.trainer.score_model", stopped)
        tiny.pretrain(tiny.config(run))
    told = re.search(r"SIGTERM: stopped before the first step; .*`unmask pretrain --resume (.*)`", caplog.text)
    assert told is not None
    assert not (run / "checkpoints").exists()
    tiny.pretrain(saved_config(Path(told[1])), resume=Path(told[1]))
    tiny.assert_same_end(run, unbroken)


def test_a_signal_is_heard_while_workers_start(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.stream import loader

    forked: list[Any] = []
    original = loader._fork

    def fork(*arguments: Any) -> Any:
        forked.append(original(*arguments))
        os.kill(os.getpid(), signal.SIGTERM)
        return forked[-1]

    monkeypatch.setattr(loader, "_fork", fork)
    tiny.pretrain(tiny.config(tmp_path / "run", workers=50))
    assert len(forked) == 1
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]


def test_each_evaluation_has_the_loss_of_token_frequencies_beside_it(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, tokenizer = tiny.text()
    unigram = RunData(store, tokenizer, tiny.config(tmp_path)).unigram()
    assert unigram is not None
    assert {row["unigram_loss"] for row in read_evaluations(unbroken)} == {unigram.loss}
    tiny.trainer(tiny.config(tmp_path), tmp_path)
    assert f"data: {unigram.loss:.3f} nats is the loss of a model that knows only token frequencies" in caplog.text


def test_a_long_interval_of_the_log_is_not_silent(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.train.logging.progress.LINE_SECONDS", 0.0)
    tiny.pretrain(tiny.config(tmp_path / "run", log_every=16))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("step")] == [f"{step}/16" for step in range(1, 17)]
    assert sum(line.startswith("forecast: ") for line in lines) == 1
    tiny.assert_same_end(tmp_path / "run", tmp_path / "run")
    assert [row["step"] for row in read_log(tmp_path / "run")] == [16]


def test_a_glance_between_rows_changes_no_row(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.train.logging.progress.LINE_SECONDS", 0.0)
    tiny.pretrain(tiny.config(tmp_path / "run"))
    tiny.assert_same_end(tmp_path / "run", unbroken)


def test_a_busy_machine_is_told_with_the_option_that_helps(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    threads = torch.get_num_threads()
    try:
        tiny.pretrain(tiny.config(tmp_path / "two", steps=1, phases=[], threads=2))
        assert caplog.text.count("PyTorch has 2 threads, but") == 1
        option = re.search(r"--train\.threads (\d+)", caplog.text)
        assert option is not None
        caplog.clear()
        tiny.pretrain(tiny.config(tmp_path / "one", steps=1, phases=[], threads=int(option[1])))
        assert "threads" not in caplog.text
    finally:
        torch.set_num_threads(threads)


def test_a_resumed_run_on_another_machine_tells_what_auto_chooses(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=2, phases=[]))
    now = machine(torch.device("cpu"), torch.float32)
    monkeypatch.setattr("unmask.train.trainer.machine", lambda *of: now | {"device": "another"})
    tiny.pretrain(saved_config(run, {"train.steps": 3, "kernels.gelu": "reference"}), resume=run)
    assert "now another: same data and masks" in caplog.text
    told = next(text for text in caplog.messages if text.startswith("auto chooses the best backend of this machine"))
    assert "kernels.attention" in told
    assert "kernels.gelu" not in told


def test_every_phase_has_dropout_of_its_own_in_a_resumed_run_too(tiny: ModuleType, tmp_path: Path) -> None:
    seen: dict[int, set[int]] = {}
    original = PretrainingModel.forward

    def watch(model: torch.nn.Module, batch: object, **options: object) -> torch.Tensor:
        if model.training:
            max_seqlen = batch.documents.max_seqlen  # type: ignore[attr-defined]
            seen.setdefault(max_seqlen, set()).add(int(model.encoder.dropout_seed))  # type: ignore[operator, union-attr]
        return original(model, batch, **options)  # type: ignore[no-any-return]

    run = tmp_path / "a"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PretrainingModel, "forward", watch)
        tiny.pretrain(tiny.config(run))
        shutil.rmtree(run / "checkpoints" / "step-000016")
        tiny.pretrain(saved_config(run), resume=run)
    assert seen[16] == {tiny.config(run).seed}
    assert len(seen[32]) == 1
    assert seen[32].isdisjoint(seen[16])


def test_an_existing_run_is_never_written_over(tiny: ModuleType, unbroken: Path) -> None:
    before = (unbroken / "log.jsonl").read_bytes()
    with pytest.raises(RunError, match="exists already"):
        tiny.pretrain(tiny.config(unbroken))
    assert (unbroken / "log.jsonl").read_bytes() == before


def test_a_store_without_held_out_documents_trains_and_says_so(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.pretrain(tiny.config(tmp_path / "a", held_out_fraction=1e-9, steps=4, phases=[], evaluate_every=2))
    assert caplog.text.count("no held-out document") == 1
    assert read_evaluations(tmp_path / "a") == []


def test_a_run_that_ends_before_it_gives_up_says_that_its_last_steps_changed_nothing(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short: dict[str, Any] = {"warmup_steps": 0, "phases": [], "steps": 4}
    tiny.pretrain(tiny.config(tmp_path / "a", learning_rate=1e30, **short))
    assert "was not finite in each of the last 3 steps" in caplog.text
    caplog.clear()
    tiny.pretrain(tiny.config(tmp_path / "b", learning_rate=1e-4, **short))
    assert "not finite" not in caplog.text


def test_a_run_that_diverges_stops_with_advice_and_keeps_its_last_finite_state(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.train.trainer.GIVE_UP_AFTER", 3)
    with pytest.raises(RunError, match=r"not finite in each of the last \d+ steps.*lower optimizer\.learning_rate"):
        tiny.pretrain(tiny.config(tmp_path / "a", learning_rate=1e30, warmup_steps=0, phases=[]))
    rows = read_log(tmp_path / "a")
    assert rows[-1]["skipped"] > 0
    assert rows[-1]["loss"] is None
    state = json.loads(next((tmp_path / "a" / "checkpoints").glob("*/training/state.json")).read_text())
    assert state["skipped"] >= 3
    assert (tmp_path / "a" / "checkpoints" / f"step-{rows[-1]['step']:06d}").is_dir()


def test_results_are_printed_and_notices_are_log_messages_which_a_command_prints_too(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"steps": 1, "warmup_steps": 0, "phases": []}
    tiny.pretrain(tiny.config(tmp_path / "library", **settings))
    assert "done: 1 step, " in caplog.text
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith("step 1/1")] == [
        "held-out at step 0",
        "held-out at step 1",
        "done",
    ]
    with install_messages():
        tiny.pretrain(tiny.config(tmp_path / "command", **settings))
    told = capsys.readouterr()
    assert told.err == ""
    assert [told.out.count(line) for line in ("done: 1 step, ", "held-out at step 1")] == [1, 1]
    assert told.out.startswith("no data.store and no data.input: training on the docstrings of the installed Python")
    assert [line.split(":")[0] for line in told.out.splitlines() if ":" in line][-2:] == ["done", "try"]


def test_a_run_refused_for_its_settings_leaves_its_name_free(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.phases\.0"):
        tiny.pretrain(tiny.config(tmp_path / "a", steps=1, warmup_steps=0))
    assert not (tmp_path / "a").exists()


def test_a_backend_named_in_the_configuration_runs(tiny: ModuleType, tmp_path: Path) -> None:
    losses = []
    for name, kernels in (
        ("one", KernelsConfig()),
        ("two", KernelsConfig(layer_norm="reference", last_layer_rows=False)),
    ):
        config = replace(tiny.config(tmp_path / name, steps=2, warmup_steps=1, phases=[]), kernels=kernels)
        tiny.pretrain(replace(config, train=replace(config.train, log_every=1)))
        losses.append([row["loss"] for row in read_log(tmp_path / name)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    refused = replace(tiny.config(tmp_path / "three"), kernels=KernelsConfig(layer_norm="triton"))
    with pytest.raises(BackendUnavailable, match="layer_norm: backend 'triton' cannot run this call"):
        tiny.pretrain(refused)
    with pytest.raises(ValueError, match="mlm_loss must be one of"):
        KernelsConfig(mlm_loss="fast")


@pytest.mark.parametrize("masking", ["token", "whole_word"])
def test_masks_made_on_the_device_train_the_same_model(tiny: ModuleType, tmp_path: Path, masking: str) -> None:
    logs = []
    for where in ("host", "device"):
        config = tiny.config(tmp_path / where, steps=4, warmup_steps=1)
        tiny.pretrain(replace(config, masking=MaskingConfig(strategy=masking, place=where)))
        logs.append([(row["loss"], row["masked_accuracy"]) for row in read_log(tmp_path / where)])
    assert logs[0] == logs[1]


def test_a_run_whose_reader_went_goes_on_to_its_end(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    with contextlib.suppress(OSError), os.fdopen(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        tiny.pretrain(tiny.config(tmp_path / "run", steps=2, warmup_steps=1, phases=[]))
        monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
