"""What fine-tuning, its models and its predictions refuse, and that their advice works when it is followed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unmask
from advice import follow, refusal
from unmask.batch import pack
from unmask.config import EncoderConfig
from unmask.config.head import HeadConfig
from unmask.model.task_model import TaskModel
from unmask.objectives import score_batch
from unmask.tasks.objectives import task_objective

SIZES = EncoderConfig(vocab_size=50, hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8, max_positions=16)
ONE_STEP = {"train.epochs": 0.2}


def finetune(settings: dict[str, Any], task: str = "classification", **changes: Any) -> Path:
    shutil.rmtree(settings["run"], ignore_errors=True)
    return unmask.finetune(unmask.load_finetune_config(task, settings | ONE_STEP | changes))


@pytest.fixture
def tuned(settings: dict[str, Any], tmp_path: Path) -> Path:
    """The folder of a fine-tuned model."""
    unmask.export(finetune(settings), tmp_path / "tuned")
    return tmp_path / "tuned"


def config_of(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_text_longer_than_the_model_reads(settings: dict[str, Any]) -> None:
    follow(
        lambda: finetune(settings, **{"input.max_length": 512}),
        "config: input.max_length is 512 but ... has 24 positions; give --input.max_length 24",
        lambda: finetune(settings, **{"input.max_length": 24}),
    )


def test_more_frozen_layers_than_there_are(settings: dict[str, Any]) -> None:
    follow(
        lambda: finetune(settings, **{"head.frozen_layers": 3}),
        "config: head.frozen_layers is 3 but ... has 2 layers; give at most that many",
        lambda: finetune(settings, **{"head.frozen_layers": 2}),
    )


def test_pairs_need_two_segments(settings: dict[str, Any], base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one-segment"
    shutil.copytree(base, folder)
    config = replace(unmask.PretrainingModel.from_pretrained(base).config, num_segments=1)
    unmask.PretrainingModel(EncoderConfig(**{n: getattr(config, n) for n in EncoderConfig.__slots__})).save_pretrained(
        folder
    )
    follow(
        lambda: finetune(settings, model=str(folder), **{"data.pair": "label"}),
        "data.pair is given but ... has one segment, and a pair has two; take a model with type_vocab_size 2, or leave "
        "data.pair out",
        lambda: finetune(settings, **{"data.pair": "label"}),
        lambda: finetune(settings, model=str(folder)),
    )


def test_a_model_without_a_tokenizer(settings: dict[str, Any], base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(base, folder)
    kept = {name: (folder / name).read_bytes() for name in ("tokenizer.json", "vocab.txt") if (folder / name).exists()}
    for name in kept:
        (folder / name).unlink()

    def copied() -> None:
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        finetune(settings, model=str(folder))

    follow(
        lambda: finetune(settings, model=str(folder)),
        "has no tokenizer (tokenizer.json or vocab.txt) ... copy the tokenizer that the model was trained with into "
        "the folder",
        copied,
    )


def test_an_output_layer_is_taken_over_if_its_labels_fit(
    settings: dict[str, Any], tuned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="unmask"):
        finetune(settings, model=str(tuned))
    assert f"encoder and output layer of {tuned}" in caplog.text
    other = tmp_path / "other.tsv"
    other.write_text(Path(settings["data.train"]).read_text().replace("\tcat", "\tdog"))
    changes = {"model": str(tuned), "data.train": str(other), "data.dev": None}
    follow(
        lambda: finetune(settings, **changes),
        "has an output layer for cat, river, and the training file has the labels dog, river; give --head.new to start "
        "with a new layer",
        lambda: finetune(settings, **changes, **{"head.new": True}),
    )


def test_a_label_that_training_never_saw_is_named_with_its_line(settings: dict[str, Any], tmp_path: Path) -> None:
    dev = tmp_path / "dev.tsv"
    dev.write_text("sentence\tlabel\nthe cat sat\tcat\na mill turns\triver \nthe mill\tmill\n")

    def mended() -> None:
        dev.write_text(dev.read_text().replace("\tmill", "\triver"))
        finetune(settings, **{"data.dev": str(dev)})

    follow(
        lambda: finetune(settings, **{"data.dev": str(dev)}),
        "dev.tsv, line 4 has the label 'mill', which training never saw ... write one of 'cat', 'river' there",
        mended,
    )


def test_layouts_that_are_not_there(settings: dict[str, Any]) -> None:
    layout = {"data.layout": "sst-2", "data.text": None}
    follow(
        lambda: finetune(settings, **layout),
        "data.layout is 'sst-2', which is no benchmark of texts; did you mean sst2?",
        lambda: unmask.load_finetune_config("classification", {"data.layout": "sst2"}),
    )
    assert "which is no benchmark of texts; there are cola, sst2" in refusal(
        lambda: finetune(settings, **{"data.layout": "zzz"})
    )
    told = "files of words have no layouts; leave it out, or give data.text and data.label as the columns"
    assert told in refusal(lambda: finetune(settings, "entities", **{"data.layout": "conll2003"}))
    told = "a file of questions is JSON as SQuAD has it; leave it out"
    assert told in refusal(lambda: finetune(settings, "qa", **{"input.max_length": 16}))


def test_predictions_do_not_overwrite_a_file(tuned: Path, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").write_text("mine")
    follow(
        lambda: unmask.predict(tuned, files["dev"], tmp_path / "there.jsonl"),
        "exists already; choose another name with --out",
        lambda: unmask.predict(tuned, files["dev"], tmp_path / "new.jsonl"),
    )


def test_a_model_of_single_texts_is_given_no_pairs(tuned: Path, files: dict[str, Path], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("sentence\tother\nthe cat sat\tthe river runs\n")
    follow(
        lambda: unmask.predict(tuned, pairs, pair="other"),
        "line 2 must be a single text, as in training, got a pair; name one column of text",
        lambda: unmask.predict(tuned, pairs, text="sentence"),
    )


def test_a_submission_needs_a_file_and_a_benchmark(tuned: Path, tmp_path: Path) -> None:
    """GLUE's test files have `index` and no label; its server takes index and prediction."""
    test = tmp_path / "test.tsv"
    test.write_text("index\tsentence\n0\tthe cat sat\n1\tthe river runs\n")
    out = tmp_path / "SST-2.tsv"

    def submitted() -> None:
        out.unlink(missing_ok=True)
        unmask.predict(tuned, test, out, layout="sst2", submission=True)

    follow(
        lambda: unmask.predict(tuned, test, submission=True, layout="sst2"),
        "--submission needs the file to write; give it as --out FILE",
        submitted,
    )
    lines = out.read_text().splitlines()
    assert lines[0] == "index\tprediction" and [line.split("\t")[0] for line in lines[1:]] == ["0", "1"]
    follow(
        lambda: unmask.predict(tuned, test, tmp_path / "other.tsv", submission=True),
        "--submission needs the benchmark whose form the file has; give it as --layout NAME, or leave --submission out "
        "for JSON lines",
        submitted,
        lambda: unmask.predict(tuned, test, tmp_path / "other.jsonl"),
    )


def test_a_layout_names_its_own_columns(tuned: Path, files: dict[str, Path]) -> None:
    follow(
        lambda: unmask.predict(tuned, files["dev"], layout="sst2", text="sentence"),
        "--layout and --text are given together, and a layout names its columns; leave one out",
        lambda: unmask.predict(tuned, files["blind"], text="sentence"),
    )


def test_settings_in_config_json_are_checked(tuned: Path, files: dict[str, Path]) -> None:
    config_of(tuned, finetuning={"long_texts": "tail", "text": "sentence"})

    def mended() -> None:
        config_of(tuned, finetuning={"long_texts": "head", "text": "sentence"})
        unmask.predict(tuned, files["dev"])

    follow(
        lambda: unmask.predict(tuned, files["dev"]),
        "predict: config.json of ... has the setting long_texts, which must be one of ... mend it there",
        mended,
    )


def test_a_model_without_an_output_layer_predicts_nothing(
    settings: dict[str, Any], base: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    follow(
        lambda: unmask.predict(base, files["dev"]),
        "is no fine-tuned model (architectures of its config.json names none of BertForSequenceClassification, ... "
        "make one with `unmask finetune`",
        lambda: unmask.predict(finetune(settings), files["dev"]),
    )


def test_names_of_classes_that_are_none(tuned: Path, files: dict[str, Path]) -> None:
    def named() -> None:
        config_of(tuned, id2label={"0": "cat", "1": "river"})
        unmask.predict(tuned, files["dev"])

    for wrong in ({"0": "cat", "2": "river"}, ["cat", "river"]):
        config_of(tuned, id2label=wrong)
        follow(
            lambda: unmask.predict(tuned, files["dev"]),
            "id2label must name the classes 0, 1, ..., is ... write a name for each number from 0 on",
            named,
        )
    config_of(tuned, id2label={"0": "cat", "1": "cat"})
    follow(
        lambda: unmask.predict(tuned, files["dev"]),
        "id2label: labels must differ, got 'cat' twice; leave one out; write the names of the classes there",
        named,
    )


def test_labels_of_an_output_layer() -> None:
    follow(
        lambda: HeadConfig(task="classification", labels=("a",)),
        "labels must name at least 2 classes for classification, got 1",
        lambda: HeadConfig(task="classification", labels=("a", "b")),
        lambda: HeadConfig(task="multi_label", labels=("a",)),
    )
    follow(
        lambda: HeadConfig(task="qa", labels=("a", "b")),
        "labels must be empty for qa, got 2 names; leave them out",
        lambda: HeadConfig(task="qa"),
    )
    follow(
        lambda: HeadConfig(task="entities", labels=("O", "O")),
        "labels must differ, got 'O' twice; leave one out",
        lambda: HeadConfig(task="entities", labels=("O", "B")),
    )


def test_a_batch_without_what_is_to_be_predicted() -> None:
    from unmask.batch import assemble

    batch = pack([[2, 5, 3]])
    ids = {"keys": np.array([0]), "tokens": 3, "sequences": 1, "max_seqlen": 3}
    model = TaskModel(SIZES, HeadConfig(labels=("a", "b")))
    score = lambda model, batch: score_batch(model, [(task_objective(model.head.task), 1.0)], batch)  # noqa: E731
    follow(
        lambda: score(model, batch),
        "the batch must carry the targets of its documents, it has none; make it with targets= of "
        "unmask.batch.assemble",
        lambda: score(model, assemble(np.array([2, 5, 3]), np.array([3]), targets=np.array([1]), **ids)),  # type: ignore[arg-type]
    )
    tagger = TaskModel(SIZES, HeadConfig(task="entities", labels=("O", "B")))
    tags = {"masked": np.array([1]), "labels": np.array([0])}
    follow(
        lambda: score(tagger, batch),
        "entities: the batch must carry the first token of each word and its tag, it has none; make it with masked= "
        "and labels= of unmask.batch.assemble",
        lambda: score(tagger, assemble(np.array([2, 5, 3]), np.array([3]), **tags, **ids)),  # type: ignore[arg-type]
    )


def test_other_commands_name_the_one_for_a_fine_tuning_run(
    settings: dict[str, Any], files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from unmask.cli import main

    run = finetune(settings)
    follow(
        lambda: unmask.evaluate(run),
        "is a run of unmask finetune, and its scores are in scores.json there; score another file with `unmask predict",
        lambda: unmask.predict(run, files["dev"]),
    )
    follow(
        lambda: unmask.pretrain(resume=run),
        "it is a run of unmask finetune, so continue it with `unmask finetune --resume",
        lambda: unmask.finetune(resume=run),
    )
    assert main(["plot", str(run)]) == 0
    assert "training loss" in capsys.readouterr().out and (run / "loss.png").is_file()


def test_a_run_without_an_evaluation_has_no_model_yet(settings: dict[str, Any], files: dict[str, Path]) -> None:
    run = finetune(settings)
    shutil.rmtree(run / "best")
    (run / "scores.json").unlink()

    def gone_on() -> None:
        shutil.rmtree(run / "checkpoints")
        unmask.finetune(resume=run)
        unmask.predict(run, files["dev"])

    follow(
        lambda: unmask.predict(run, files["dev"]),
        "has no evaluated model yet; wait for its first evaluation, or continue it with `unmask finetune --resume",
        gone_on,
    )
