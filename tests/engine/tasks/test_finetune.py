"""A fine-tuning run from its settings to its scores: it learns, resumes with the same bits, and keeps the best."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from advice import follow, refusal
from unmask.cli import main
from unmask.errors import ConfigError, RunError
from unmask.interop.find_model import find_model
from unmask.tasks.finetuner import Finetuner
from unmask.train.logging.log import read_evaluations, read_log

TIMES = ("tokens_per_second", "data_wait", "seconds_per_step", "examples_per_second", "peak_memory_bytes")


def finetune(settings: dict[str, Any], task: str = "classification", **changes: Any) -> Path:
    return unmask.finetune(unmask.load_finetune_config(task, settings | changes))


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(find_model(run).path / "model.safetensors")


def test_a_run_learns_and_its_scores_are_those_of_its_best_model(
    settings: dict[str, Any], files: dict[str, Path], tmp_path: Path
) -> None:
    run = finetune(settings, **{"data.test": str(files["dev"])})
    scores = json.loads((run / "scores.json").read_text())
    assert scores["dev"]["accuracy"] == scores["test"]["accuracy"] == 100.0
    assert scores["labels"] == ["cat", "river"] and scores["steps"] == 20
    rows = read_evaluations(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    best = max(row["accuracy"] for row in rows)
    first = next(row for row in rows if row["accuracy"] == best)
    assert scores["best_step"] == first["step"] and scores["dev"]["loss"] == first["loss"]
    assert [row["step"] for row in read_log(run)] == [5, 10, 15, 20]
    assert {"loss", "learning_rate", "tokens_per_second", "examples_per_second"} <= read_log(run)[0].keys()
    # the model that is kept predicts what was scored, and reads a file without labels by itself
    found = unmask.predict(run, files["dev"])
    assert found.scores is not None and found.scores["accuracy"] == best
    blind = unmask.predict(run, files["blind"], tmp_path / "predictions.jsonl")
    assert blind.scores is None and blind.predictions == found.predictions
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert lines == blind.predictions
    assert lines[0]["id"] == "0" and lines[0]["label"] in ("cat", "river")
    # the intervals are those of `unmask score`
    told = unmask.score("classification", files["dev"], tmp_path / "predictions.jsonl")
    assert {name: tuple(ends) for name, ends in scores["intervals"]["dev"].items()} == told.intervals
    assert scores["intervals"]["test"] == scores["intervals"]["dev"] != {}
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1.0)


def test_a_run_that_stops_resumes_with_the_bits_of_one_that_did_not(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = finetune(settings, run=str(tmp_path / "unbroken"))
    step = Finetuner._train_step

    def stopped(self: Finetuner) -> None:
        step(self)
        if self.done == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Finetuner, "_train_step", stopped)
    run = finetune(settings)
    assert not (run / "scores.json").exists()
    monkeypatch.setattr(Finetuner, "_train_step", step)
    # from another folder, and the model that it started from is not needed
    monkeypatch.chdir(tmp_path)
    assert unmask.finetune(resume=run) == run
    for name, value in weights(unbroken).items():
        assert torch.equal(value, weights(run)[name]), name
    assert without_times(read_log(run)) == without_times(read_log(unbroken))
    assert read_evaluations(run) == read_evaluations(unbroken)
    kept = {name: value for name, value in json.loads((run / "scores.json").read_text()).items() if name != "seconds"}
    assert kept.items() <= json.loads((unbroken / "scores.json").read_text()).items()


def test_a_finished_run_is_not_trained_again(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    run = finetune(settings, **{"train.epochs": 1})
    with caplog.at_level("INFO", logger="unmask"):
        unmask.finetune(resume=run)
    assert "already finished" in caplog.text
    follow(
        lambda: finetune(settings),
        "exists already; continue it with `unmask finetune --resume ... or choose another name with --run",
        lambda: unmask.finetune(resume=run),
        lambda: finetune(settings, **{"train.epochs": 1, "run": f"{run}-2"}),
    )


def test_training_stops_early_when_the_score_is_no_better(settings: dict[str, Any]) -> None:
    run = finetune(settings, **{"train.epochs": 40, "train.patience": 2})
    rows = read_evaluations(run)
    assert len(rows) < 20
    best = max(range(len(rows)), key=lambda place: rows[place]["accuracy"])
    assert len(rows) == best + 3
    follow(
        lambda: unmask.load_finetune_config("classification", {"train.patience": 2}),
        "train.patience is given without data.dev, so no score can stop the run; give data.dev",
        lambda: unmask.load_finetune_config("classification", {"train.patience": 2, "data.dev": "dev.tsv"}),
    )


def test_without_a_dev_file_the_last_step_is_kept(settings: dict[str, Any]) -> None:
    run = finetune({name: value for name, value in settings.items() if name != "data.dev"}, **{"train.epochs": 2})
    scores = json.loads((run / "scores.json").read_text())
    assert scores["best_step"] == scores["steps"] == 10 and "dev" not in scores
    assert not read_evaluations(run)


def test_frozen_layers_stay_and_layers_below_learn_slower(settings: dict[str, Any], base: Path) -> None:
    from unmask.interop.weights import read_weights

    run = finetune(settings, **{"head.frozen_layers": 1, "train.epochs": 1})
    before, after = read_weights(base), weights(run)
    same = {name for name, value in before.items() if name in after and torch.equal(after[name], value)}
    assert any(name.startswith("bert.embeddings.") for name in same)
    assert any(".layer.0." in name for name in same) and not any(
        ".layer.1.output.dense.weight" in name for name in same
    )
    config = unmask.load_finetune_config("classification", {"optimizer.layer_decay": 0.5})
    from unmask.config.head import HeadConfig
    from unmask.model.task_model import TaskModel
    from unmask.tasks.optimizer import set_rates, task_adamw

    sizes = unmask.EncoderConfig(vocab_size=50, hidden_size=8, num_layers=2, num_heads=1, intermediate_size=8)
    model = TaskModel(sizes, HeadConfig(labels=("a", "b")))
    optimizer = task_adamw(model, config.optimizer)
    set_rates(optimizer, 1.0)
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.classifier.weight)] == rates[id(model.encoder.pooler.weight)] == 1.0  # type: ignore[union-attr]
    assert rates[id(model.encoder.layers[1].norm.bias)] == 0.5
    assert rates[id(model.encoder.layers[0].up.weight)] == 0.25
    assert rates[id(model.encoder.embeddings.word.weight)] == 0.125
    assert len(rates) == len(list(model.parameters()))


def test_micro_batches_do_not_change_a_run(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = finetune(settings, **{"train.epochs": 1})
    cut = finetune(settings, **{"train.epochs": 1, "train.micro_batch_tokens": 24, "run": str(tmp_path / "cut")})
    for name, value in weights(whole).items():
        # AdamW divides small gradients by their size, so rounding shows
        torch.testing.assert_close(value, weights(cut)[name], rtol=1e-3, atol=2e-4)
    for one, other in zip(read_log(whole), read_log(cut), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)


def test_the_command_line_trains_predicts_and_exports(
    settings: dict[str, Any], files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And `transformers` gives the same probabilities through its pipeline."""
    words = [
        word
        for name, value in settings.items()
        if name not in ("model", "run")
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    run, out = str(tmp_path / "r"), str(tmp_path / "exported")
    assert main(["finetune", "classification", settings["model"], *words, "--run", run]) == 0
    assert "dev, best model" in capsys.readouterr().out
    assert main(["export", run, out]) == 0
    assert "AutoModelForSequenceClassification" in capsys.readouterr().out
    assert main(["predict", out, str(files["blind"])]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card and "| dev | " in card and str(tmp_path) not in card
    assert "unmask finetune settings.yaml MODEL --data.train train.tsv --data.dev dev.tsv" in card
    transformers = pytest.importorskip("transformers")
    pipe = transformers.pipeline("text-classification", model=out, top_k=None)
    texts = files["blind"].read_text().splitlines()[1:]
    for one, theirs in zip(found, pipe(texts), strict=True):
        expected = {row["label"]: row["score"] for row in theirs}
        assert one["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert one["label"] == max(expected, key=expected.__getitem__)


def test_a_recipe_gives_way_to_the_command_line_and_a_card_gives_its_settings_back(tmp_path: Path) -> None:
    from unmask.tasks.load import changed_task_settings, finetune_yaml

    (tmp_path / "mine.yaml").write_text("task: regression\ntrain: {epochs: 5, batch_size: 16}\n")
    config = unmask.load_finetune_config(tmp_path / "mine.yaml", {"train": {"epochs": 2}, "data.train": "x.tsv"})
    assert (config.task, config.train.epochs, config.train.batch_size) == ("regression", 2.0, 16)
    assert changed_task_settings(config) == {"task": "regression", "train": {"epochs": 2.0, "batch_size": 16}}
    (tmp_path / "saved.yaml").write_text(finetune_yaml(config))
    assert unmask.load_finetune_config(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize(
    ("settings_given", "told", "advised"),
    [
        ({"train.epoch": 2}, "did you mean train.epochs?", {"train.epochs": 2}),
        ({"lr": 1e-5}, "did you mean optimizer.learning_rate?", {"optimizer.learning_rate": 1e-5}),
        ({"frogs": 1}, "there are task, model, run, seed, data, input", {"seed": 1}),
        ({"train.epochs": 0}, "train.epochs must be above 0", {"train.epochs": 1}),
        ({"input.long_texts": "tail"}, "must be one of 'head', 'head_tail', 'windows'", {"input.long_texts": "head"}),
    ],
)
def test_a_wrong_setting_is_named(settings_given: dict[str, Any], told: str, advised: dict[str, Any]) -> None:
    message = refusal(lambda: unmask.load_finetune_config("classification", settings_given))
    assert told in message
    if "frogs" in settings_given:
        assert "frogs is not a setting of a fine-tuning run; there are" in message
    unmask.load_finetune_config("classification", advised)


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    follow(
        lambda: unmask.load_finetune_config("clasification"),
        "no task, recipe or file is called 'clasification'; did you mean classification?",
        lambda: unmask.load_finetune_config("classification"),
    )
    follow(
        lambda: unmask.load_finetune_config("zzz"),
        "no task, recipe or file is called 'zzz'; there are classification",
        lambda: unmask.load_finetune_config("regression"),
    )


def test_a_file_of_settings_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"seed: 1 # \xff\n")

    def utf8() -> None:
        (tmp_path / "bad.yaml").write_text("seed: 1\n", "utf-8")
        unmask.load_finetune_config(tmp_path / "bad.yaml")

    follow(
        lambda: unmask.load_finetune_config(tmp_path / "bad.yaml"), "cannot be read ... give a YAML file in UTF-8", utf8
    )


def test_what_a_run_needs_is_asked_for(settings: dict[str, Any], tmp_path: Path) -> None:
    follow(
        lambda: finetune(settings, model=""),
        "model must name the model to start from; give a run, a checkpoint or a folder",
        lambda: finetune(settings, **{"train.epochs": 0.2, "run": str(tmp_path / "a")}),
    )
    follow(
        lambda: finetune(settings, **{"data.train": None}),
        "data.train must name the file to train on; give it as --data.train FILE",
        lambda: finetune(settings, **{"train.epochs": 0.2, "run": str(tmp_path / "b")}),
    )
    assert "finetune: needs config or resume, one of them; pass the settings of a run, or its directory" in refusal(
        lambda: unmask.finetune()
    )


def test_the_words_of_the_command_are_a_task_and_a_model(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["finetune", "classification"]) == 2
    assert (
        "finetune: needs a task and a model, got classification; write `unmask finetune classification MODEL "
        "--data.train FILE`" in capsys.readouterr().err
    )
    assert main(["finetune", "classification", settings["model"], "--train.epoch", "2"]) == 2
    assert "did you mean --train.epochs?" in capsys.readouterr().err
    run = finetune(settings, **{"train.epochs": 0.2})
    assert main(["finetune", "--resume", str(run), "--train.epochs", "2"]) == 2
    told = capsys.readouterr().err
    assert "keeps the saved settings; leave '--train.epochs' out" in told
    assert main(["finetune", "--resume", str(run)]) == 0


def test_a_folder_that_is_no_run_is_not_resumed_or_written_into(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    follow(
        lambda: finetune(settings, run=str(tmp_path / "notes")),
        "exists already and holds no run; choose another name with --run",
        lambda: finetune(settings, **{"train.epochs": 0.2}),
    )
    follow(
        lambda: unmask.finetune(resume=tmp_path / "notes"),
        "cannot be resumed: it has no finetune.yaml; give the directory of a run of unmask finetune",
        lambda: unmask.finetune(resume=settings["run"]),
    )
    with pytest.raises(RunError, match="no such directory"):
        unmask.finetune(resume=tmp_path / "nowhere")


def test_a_run_that_fails_before_it_trains_leaves_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"train\.metric is f7, which classification does not have; there are accuracy"
    ):
        finetune(settings, **{"train.metric": "f7"})
    assert not Path(settings["run"]).exists()
    assert finetune(settings, **{"train.metric": "accuracy", "train.epochs": 0.2}).is_dir()


def test_several_processes_are_refused(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")

    def alone() -> None:
        monkeypatch.delenv("WORLD_SIZE")
        finetune(settings, **{"train.epochs": 0.2})

    follow(
        lambda: finetune(settings),
        "trains in one process, and WORLD_SIZE is 2; start it without torchrun, or unset WORLD_SIZE",
        alone,
    )


def test_other_examples_than_those_of_the_checkpoint_are_refused(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tmp_path / "train.tsv"
    before = Path(settings["data.train"]).read_text()
    train.write_text(before)
    step = Finetuner._train_step

    def stopped(self: Finetuner) -> None:
        step(self)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Finetuner, "_train_step", stopped)
    run = finetune(settings, **{"data.train": str(train), "train.epochs": 1})
    monkeypatch.setattr(Finetuner, "_train_step", step)
    train.write_text(before + "the cat runs\tcat\n")

    def put_back() -> None:
        train.write_text(before)
        unmask.finetune(resume=run)

    follow(
        lambda: unmask.finetune(resume=run),
        "was trained on other examples than ... has now; put the file back as it was, or start a new run",
        put_back,
    )
