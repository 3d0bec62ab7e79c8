"""A run starts from the weights of another run, and a resumed one does not read them again."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import unmask
from initial_runs import SMALL, settings, start, trainer, weights
from unmask.config import load_config
from unmask.data.prepare import prepare
from unmask.train.evaluate import score_model
from unmask.train.logging.log import read_evaluations, read_log
from unmask.train.pretrain import pretrain
from unmask.train.run_folder import RunFolder, saved_config


def test_a_run_goes_on_with_another_store_from_its_own_loss(first_run: Path, corpus: Path, tmp_path: Path) -> None:
    lines = (corpus / "text.jsonl").read_text().splitlines()[:60]
    (tmp_path / "new.jsonl").write_text("\n".join(lines).replace("cat", "dog"))
    prepare([tmp_path / "new.jsonl"], tmp_path / "store", tokenizer=first_run, workers=1)
    second = start(first_run, tmp_path / "store", tmp_path / "second")
    config = saved_config(second)
    assert (config.model.causal, config.model.attention_window, config.model.num_layers) == (True, 4, 2)
    model = unmask.PretrainingModel.from_pretrained(first_run)
    here = trainer(first_run, tmp_path / "store", tmp_path / "third")
    held_out = here.data.held_out(here.data.phases[0])
    assert held_out is not None
    [score] = score_model(model, here.objectives, held_out.batches(), tokens=SMALL["train.evaluate_tokens"])
    rows = read_evaluations(second)
    assert rows[0]["loss"] == score.loss
    assert [row["step"] for row in read_log(second)] == [1, 2]
    assert read_log(second)[0]["learning_rate"] == read_log(first_run)[0]["learning_rate"]
    facts = json.loads((second / "initial.json").read_text())
    assert (facts["from"], facts["step"], facts["new_parts"]) == (str(first_run), 2, [])
    assert facts["trained_length"] == 32
    manifest = json.loads((first_run / "checkpoints" / "step-000002" / "manifest.json").read_text())
    assert facts["weights"] == {"model.safetensors": manifest["files"]["model.safetensors"]["sha256"]}


def test_sequences_longer_than_those_of_the_initial_run_are_announced(
    first_run: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(first_run, corpus / "store", tmp_path / "same")
    assert "untrained" not in caplog.text
    trainer(first_run, corpus / "store", tmp_path / "longer", stream__max_length=40)
    assert f"{first_run} was trained on sequences of at most 32 tokens and this run reads up to 40" in caplog.text
    assert "the positions from 32 on start untrained" in caplog.text


def test_the_settings_of_a_run_go_on_from_its_weights_with_another_rate(first_run: Path, tmp_path: Path) -> None:
    changes = {"init.from": str(first_run), "optimizer.learning_rate": 1e-5, "run": str(tmp_path / "run")}
    run = pretrain(load_config(first_run / "config.yaml", changes))
    assert read_evaluations(run)[0]["loss"] == read_evaluations(first_run)[-1]["loss"]
    assert read_log(run)[0]["learning_rate"] == 1e-5


def test_a_resumed_run_does_not_read_the_initial_checkpoint(
    model_folder: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    unbroken = start("model", corpus / "store", tmp_path / "unbroken", train__steps=4)
    stopped = start("model", corpus / "store", tmp_path / "stopped", train__steps=4, train__keep_checkpoints=9)
    for step in (3, 4):
        shutil.rmtree(stopped / "checkpoints" / f"step-{step:06d}")
    shutil.rmtree(model_folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pretrain(resume=stopped)
    ours, theirs = (weights(run / "checkpoints" / "step-000004") for run in (stopped, unbroken))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    model_folder: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    RunFolder.create(load_config(None, settings("model", corpus / "store", tmp_path / "killed")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pretrain(resume=tmp_path / "killed")
    whole = start(model_folder, corpus / "store", tmp_path / "whole")
    assert read_evaluations(tmp_path / "killed") == read_evaluations(whole)
