"""Distillation on a task, from the pre-trained teacher to the student's predictions in transformers; each loss."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import unmask
from unmask.cli import main
from unmask.config.head import HeadConfig
from unmask.interop.find_model import find_model
from unmask.model import EncoderConfig
from unmask.model.task_model import TaskModel
from unmask.objectives import score_batch
from unmask.tasks.distilled import TaskTeacher
from unmask.tasks.finetuner import Finetuner
from unmask.tasks.inputs import ModelInputs
from unmask.tasks.load import distillation_recipe_names, load_finetune_config, read_task_settings
from unmask.train.logging.log import read_evaluations, read_log

TIMES = ("tokens_per_second", "data_wait", "seconds_per_step", "examples_per_second", "peak_memory_bytes")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    rows = [
        (f"the {thing} {verb} under a {place}", thing)
        for thing, verb, place in itertools.product(["cat", "river"], ["sat", "ran"], ["tree", "house", "mat", "river"])
    ]
    found = {"train": rows * 2, "dev": rows[::2]}
    for name, part in found.items():
        text = "sentence\tlabel\n" + "".join(f"{sentence}\t{label}\n" for sentence, label in part)
        (folder / f"{name}.tsv").write_text(text)
    return {name: folder / f"{name}.tsv" for name in found}


@pytest.fixture
def task(files: dict[str, Path]) -> dict[str, Any]:
    """Settings of a short run on the files."""
    return {
        "data.train": str(files["train"]),
        "data.dev": str(files["dev"]),
        "data.text": "sentence",
        "input.max_length": 16,
        "optimizer.learning_rate": 1e-2,
        "train.epochs": 2,
        "train.batch_size": 8,
        "train.log_every": 2,
        "train.dtype": "float32",
        "train.threads": 1,
    }


@pytest.fixture(scope="module")
def tuned(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fine-tuned teacher, whose classes stand in another order than the alphabet's."""
    folder = tmp_path_factory.mktemp("tuned") / "teacher"
    encoder = unmask.Encoder.from_pretrained(teacher)
    head = HeadConfig(task="classification", labels=("river", "cat"), dropout=0.5)
    model = TaskModel(encoder.config, head, seed=5)
    model.encoder.load_state_dict(encoder.state_dict(), strict=False)
    model.save_pretrained(folder)
    unmask.Tokenizer.load(teacher).save(folder)
    return folder


def words(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(find_model(run).path / "model.safetensors")


def test_from_a_teacher_to_a_student_that_transformers_loads(
    teacher: Path, settings: dict[str, Any], task: dict[str, Any], tmp_path: Path
) -> None:
    """Teacher, general distillation, fine-tuned teacher, distillation on the task, predictions, export."""
    general, tuned, student = (tmp_path / name for name in ("general", "tuned", "student"))
    of_text = {name: one for name, one in settings.items() if name not in ("run", "distillation.teacher")}
    small = {"train.steps": 2, "train.evaluate_every": 2, "optimizer.learning_rate": 1e-2}
    assert main(["distill", "general", str(teacher), "--run", str(general), *words(of_text | small)]) == 0
    assert (
        main(["finetune", "classification", str(teacher), "--run", str(tuned), *words(task | {"head.dropout": 0})]) == 0
    )
    of_layers = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 8}
    stages = {f"distillation.intermediate_{name}": value for name, value in of_layers.items()}
    command = ["distill", "task", "classification", str(tuned), str(general), "--run", str(student)]
    assert main([*command, *words(task | stages)]) == 0
    # first the layers, then the predictions, each with its own schedule
    layers, predictions = read_log(student / "intermediate"), read_log(student)
    assert {"embedding_loss", "hidden_loss", "attention_loss"} <= layers[0].keys()
    assert layers[-1]["loss"] < layers[0]["loss"] and {row["learning_rate"] for row in layers} == {1e-2}
    assert {"prediction_accuracy", "loss"} <= predictions[0].keys() and predictions[-1]["learning_rate"] < 1e-2
    scores = json.loads((student / "scores.json").read_text())
    assert scores["model"] == str(general) and scores["teacher"] == str(tuned) and scores["labels"] == ["cat", "river"]
    assert "accuracy" in scores["dev"]

    found = unmask.predict(student, task["data.dev"])
    assert found.scores is not None and found.scores["accuracy"] == scores["dev"]["accuracy"]
    unmask.export(student, tmp_path / "out")
    pytest.importorskip("transformers")
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(tmp_path / "out"))
    rows = [line.split("\t")[0] for line in Path(task["data.dev"]).read_text().splitlines()[1:]]
    assert [one["label"] for one in classify(rows)] == [one["label"] for one in found.predictions]


@pytest.mark.parametrize(("folder", "step"), [("intermediate", 3), ("", 2)], ids=["layers", "predictions"])
def test_a_stage_that_stops_goes_on_with_the_bits_of_one_that_did_not(
    teacher: Path,
    tuned: Path,
    task: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    step: int,
) -> None:
    stages = {
        "model": str(teacher),
        "distillation.teacher": str(tuned),
        "distillation.intermediate_epochs": 1.5,
        "distillation.intermediate_batch_size": 8,
    }

    def distil(name: str) -> Path:
        return unmask.finetune(
            load_finetune_config("classification", task | stages | {"train.epochs": 1, "run": str(tmp_path / name)})
        )

    unbroken, run, whole_step = distil("unbroken"), tmp_path / "run", Finetuner._train_step

    def stopped(self: Finetuner) -> None:
        whole_step(self)
        if self.folder == run / folder and self.done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Finetuner, "_train_step", stopped)
    distil("run")
    assert not (run / folder / "scores.json").exists()
    monkeypatch.setattr(Finetuner, "_train_step", whole_step)
    assert main(["distill", "task", "--resume", str(run)]) == 0
    for part in ("", "intermediate"):
        one, other = weights(unbroken / part), weights(run / part)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        rows = [read_log(place / part) + read_evaluations(place / part) for place in (unbroken, run)]
        one_log, other_log = [
            [{name: value for name, value in row.items() if name not in TIMES} for row in log] for log in rows
        ]
        assert one_log == other_log


def test_a_student_has_the_classes_of_its_teacher_in_their_order(
    teacher: Path, tuned: Path, task: dict[str, Any], tmp_path: Path
) -> None:
    stages = {"model": str(teacher), "distillation.teacher": str(tuned), "distillation.intermediate_epochs": 0}
    run = unmask.finetune(load_finetune_config("classification", task | stages | {"run": str(tmp_path / "run")}))
    assert TaskModel.from_pretrained(run).head.labels == ("river", "cat")
    assert not (run / "intermediate").exists()
    # what is learnt are the teacher's choices, not the labels
    first, *_, last = read_log(run)
    assert last["loss"] < first["loss"] and "prediction_accuracy" in last


SIZES = EncoderConfig(
    vocab_size=40, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=16, max_positions=16,
    hidden_dropout=0.0, attention_dropout=0.0, initializer_range=0.4,
)  # fmt: skip
LABELS = {"classification": ("a", "b", "c"), "multi_label": ("a", "b"), "entities": ("O", "B-x")}
IDS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 3]]


@pytest.mark.parametrize("name", ["classification", "multi_label", "regression", "entities", "qa"])
def test_predictions_are_learnt_by_the_formulas_of_each_task(
    name: Any, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = HeadConfig(task=name, labels=LABELS.get(name, ()), dropout=0.0)
    TaskModel(SIZES, head, seed=1).save_pretrained(tmp_path / "teacher")
    unmask.Tokenizer.train(["a b c d"], 40).save(tmp_path / "teacher")
    student = TaskModel(SIZES, head, seed=2)
    temperature = 2.0 if name != "regression" else 1.0
    config = load_finetune_config(
        name,
        {
            "distillation.teacher": str(tmp_path / "teacher"),
            "distillation.temperature": temperature,
            "input.max_length": 16,
        },
    )
    (tmp_path / "run").mkdir()
    opened = TaskTeacher.open(config, tmp_path / "run", dtype=torch.float32, device=torch.device("cpu"))
    words = [torch.arange(1, len(ids) - 1).numpy() for ids in IDS] if name == "entities" else None
    inputs = ModelInputs.of(IDS, None, range(len(IDS)), words=words)
    objectives = opened.objectives(student)
    [tally] = score_batch(student, objectives, inputs.batch(torch.arange(len(IDS)).numpy()))

    original, total, count, right = TaskModel.from_pretrained(tmp_path / "teacher"), torch.zeros(()), 0, 0
    for ids in IDS:
        batch = ModelInputs.of([ids], None, [0]).batch(torch.zeros(1, dtype=torch.int64).numpy())
        rows = torch.arange(1, len(ids) - 1) if name == "entities" else student.rows(batch)
        ours, theirs = (model.logits(model(batch, rows=rows), batch, rows) for model in (student, original))
        if name == "qa":
            ours, theirs = ours.T, theirs.T
        soft = F.cross_entropy(ours / temperature, (theirs / temperature).softmax(-1), reduction="none")
        if name == "regression":
            soft = (ours - theirs).square()
        if name == "multi_label":
            soft = F.binary_cross_entropy_with_logits(
                ours / temperature, (theirs / temperature).sigmoid(), reduction="none"
            )
        total = total + (soft.mean() if name == "qa" else soft.sum())
        count += 1 if name == "qa" else soft.numel()
        same = (ours > 0) == (theirs > 0) if name == "multi_label" else ours.argmax(-1) == theirs.argmax(-1)
        right += 0 if name == "regression" else int(same.all() if name == "qa" else same.sum())
    torch.testing.assert_close(tally.loss_sum, total)
    assert int(tally.count) == count and int(tally.correct) == right
    tally.loss_sum.backward()  # type: ignore[no-untyped-call]
    assert student.classifier.weight.grad is not None and student.encoder.embeddings.word.weight.grad is not None
    assert all(parameter.grad is None for parameter in opened.teacher.model.parameters())


def test_a_regression_learns_the_labels_if_they_are_asked_for(tmp_path: Path) -> None:
    head = HeadConfig(task="regression")
    TaskModel(SIZES, head).save_pretrained(tmp_path / "teacher")
    unmask.Tokenizer.train(["a b c d"], 40).save(tmp_path / "teacher")
    settings = {"distillation.teacher": str(tmp_path / "teacher"), "distillation.regression_targets": "labels"}
    config = load_finetune_config("regression", settings | {"input.max_length": 16})
    (tmp_path / "run").mkdir()
    opened = TaskTeacher.open(config, tmp_path / "run", dtype=torch.float32, device=torch.device("cpu"))
    [(objective, _)] = opened.objectives(TaskModel(SIZES, head, seed=2))
    assert objective.name == "regression"


def test_recipes_have_the_settings_of_the_paper_for_both_stages() -> None:
    names = distillation_recipe_names()
    assert names == ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"]
    epochs = {}
    for name in names:
        config = load_finetune_config(name, {"distillation.teacher": "FOLDER"})
        distillation, train = config.distillation, config.train
        epochs[name] = distillation.intermediate_epochs
        assert config.input.max_length == (64 if name in ("cola", "sst2") else 128)
        assert distillation.intermediate_learning_rate == 5e-5 and distillation.intermediate_batch_size == 32
        assert (train.epochs, train.batch_size, config.optimizer.warmup_share) == (3, 32, 0.1)
        assert config.optimizer.learning_rate in (1e-5, 2e-5, 3e-5)
        assert config.data.layout == name and config.task == ("regression" if name == "stsb" else "classification")
    assert epochs == {"cola": 50, "mnli": 10, "qqp": 10, "qnli": 10, "mrpc": 20, "rte": 20, "sst2": 20, "stsb": 20}
    # without a teacher the name is that of the recipe for fine-tuning
    assert "distillation.intermediate_epochs" not in read_task_settings("cola")
