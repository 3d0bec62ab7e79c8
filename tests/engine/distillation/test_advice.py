"""What distillation refuses, and that its advice works when it is followed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import unmask
from advice import follow
from unmask.cli import main
from unmask.cli.distill import parse_general
from unmask.cli.distill import run as run_distill
from unmask.config import EncoderConfig, load_config
from unmask.config.head import HeadConfig
from unmask.data.prepare import prepare
from unmask.model.task_model import TaskModel

ONE_STEP = {
    "train.steps": 1,
    "stream.held_out_fraction": 0.0,
    "train.evaluate_every": 200,
    "train.evaluate_tokens": 32768,
}
General = Callable[..., Path]
Task = Callable[..., Path]


@pytest.fixture
def general(settings: dict[str, Any]) -> General:
    """A run of one step; what changes are settings, with `__` for a point."""

    def train(**changes: Any) -> Path:
        shutil.rmtree(settings["run"], ignore_errors=True)
        given = {name.replace("__", "."): value for name, value in changes.items()}
        return unmask.pretrain(load_config(None, settings | ONE_STEP | given))

    return train


def variant(folder: Path, out: Path, **changes: Any) -> str:
    """A teacher with new weights, other sizes and the same tokenizer."""
    sizes = unmask.Encoder.from_pretrained(folder).config
    config = replace(EncoderConfig(**{name: getattr(sizes, name) for name in EncoderConfig.__slots__}), **changes)
    unmask.PretrainingModel(config).save_pretrained(out, for_transformers=False)
    unmask.Tokenizer.load(folder).save(out)
    return str(out)


def test_depths_that_do_not_divide(general: General) -> None:
    follow(
        lambda: general(model__num_layers=3),
        "the student's 3 layers do not divide the teacher's 4; give --distillation.map top, bottom or last, give 3 "
        "numbers from 1 to 4 as --distillation.layers, or take a student of 1 or 2 or 4 layers",
        lambda: general(model__num_layers=3, distillation__map="top"),
        lambda: general(model__num_layers=3, distillation__map="bottom"),
        lambda: general(model__num_layers=3, distillation__map="last"),
        lambda: general(model__num_layers=3, distillation__layers=[1, 2, 4]),
        lambda: general(model__num_layers=1),
    )


def test_text_that_another_tokenizer_read(general: General, texts: list[str], teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    (tmp_path / "turned.txt").write_text("\n\n".join(text[::-1] for text in texts))
    prepare([tmp_path / "turned.txt"], tmp_path / "other", vocab_size=90, blank_line_documents=True, workers=1)

    def again() -> Path:
        words = ["--input", str(tmp_path / "text.txt"), "--tokenizer", str(teacher), "--out", str(tmp_path / "again")]
        assert main(["prepare", *words, "--blank-line-documents"]) == 0
        return general(data__store=str(tmp_path / "again"))

    follow(
        lambda: general(data__store=str(tmp_path / "other")),
        "the tokenizer of ... is not that of ... so the two would read other words in the same ids; use the teacher's: "
        "prepare the text again with `unmask prepare --input TEXT --tokenizer ... --out STORE` and give --data.store "
        "STORE",
        again,
    )


def test_heads_that_cannot_be_mapped(general: General, teacher: Path, tmp_path: Path) -> None:
    follow(
        lambda: general(model__num_heads=2),
        "distillation.heads is 'equal' but the student has 2 heads and the teacher 4; give --distillation.heads "
        "mean_of_groups to compare the means of groups of heads, --distillation.attention 0, or a student of 4 heads",
        lambda: general(model__num_heads=2, distillation__heads="mean_of_groups"),
        lambda: general(model__num_heads=2, distillation__attention=0.0),
        lambda: general(model__num_heads=4),
    )
    follow(
        lambda: general(model__num_heads=3, distillation__heads="mean_of_groups"),
        "has 3 heads and the teacher 4, of which neither is a multiple of the other; give --distillation.attention 0, "
        "or a student of 4 heads",
        lambda: general(model__num_heads=3, distillation__heads="mean_of_groups", distillation__attention=0.0),
    )
    follow(
        lambda: general(model__num_heads=2, distillation__heads="mean_of_groups", distillation__relation=1.0),
        "and relations are compared head by head; give --distillation.relation 0, or a student of 4 heads",
        lambda: general(model__num_heads=2, distillation__heads="mean_of_groups", distillation__relation=0.0),
        lambda: general(model__num_heads=4, distillation__relation=1.0),
    )


def test_a_teacher_that_sees_other_tokens_or_fewer(general: General, teacher: Path, tmp_path: Path) -> None:
    causal = variant(teacher, tmp_path / "causal", causal=True)
    follow(
        lambda: general(distillation__teacher=causal),
        "layer 1 of the student and layer 2 of the teacher do not see the same tokens, because one of them is causal "
        "or local; give --distillation.attention 0 and --distillation.relation 0, or a student with the teacher's "
        "model.causal and model.attention_window",
        lambda: general(distillation__teacher=causal, distillation__attention=0.0),
        lambda: general(distillation__teacher=causal, model__causal=True),
    )
    short = variant(teacher, tmp_path / "short", max_positions=16)
    follow(
        lambda: general(distillation__teacher=short),
        "stream.max_length is 24 but the teacher ... has 16 positions; give --stream.max_length 16",
        lambda: general(distillation__teacher=short, stream__max_length=16),
    )


def test_a_teacher_without_a_tokenizer(general: General, teacher: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(teacher, bare)
    kept = {path.name: path.read_bytes() for path in bare.iterdir() if path.name in ("tokenizer.json", "vocab.txt")}
    for name in kept:
        (bare / name).unlink()

    def copied() -> Path:
        for name, data in kept.items():
            (bare / name).write_bytes(data)
        return general(distillation__teacher=str(bare))

    follow(
        lambda: general(distillation__teacher=str(bare)),
        "has no tokenizer (tokenizer.json or vocab.txt), so nothing says what its ids mean; copy the tokenizer that "
        "the model was trained with into the folder",
        copied,
    )


def test_settings_that_contradict_a_teacher(general: General, teacher: Path) -> None:
    nothing = {f"distillation__{name}": 0.0 for name in ("embedding", "hidden", "attention")}
    follow(
        lambda: general(**nothing),
        "distillation must give one of embedding, hidden, attention, relation a weight, got 0 for all; leave one of "
        "them out",
        lambda: general(**dict.fromkeys(list(nothing)[1:], 0.0)),
    )
    follow(
        lambda: load_config(None, {"distillation.teacher": str(teacher), "init.from": str(teacher)}),
        "init.from is given with distillation.teacher, whose student begins with new weights or with layers of the "
        "teacher; leave it out, or give distillation.student_layers",
        lambda: load_config(None, {"distillation.teacher": str(teacher)}),
    )
    follow(
        lambda: load_config(
            None, {"distillation.teacher": str(teacher), "objective.nsp": 1.0, "composition.strategy": "pairs"}
        ),
        "objective.nsp is 1 with distillation.teacher, which goes with objective.mlm alone; set it to 0",
        lambda: load_config(None, {"distillation.teacher": str(teacher), "objective.nsp": 0.0}),
    )
    follow(
        lambda: load_config(None, {"distillation.teacher": str(teacher), "train.compile": True}),
        "train.compile is true with distillation.teacher, whose forward pass the losses of a micro-batch share, so it "
        "is no one graph; set it to false",
        lambda: load_config(None, {"distillation.teacher": str(teacher), "train.compile": False}),
    )
    follow(
        lambda: load_config(None, {"distillation.teacher": str(teacher), "train.parallel": "fsdp"}),
        "train.parallel is 'fsdp' with distillation.teacher, whose losses read parameters beside the student's layers; "
        "set it to 'ddp'",
        lambda: load_config(None, {"distillation.teacher": str(teacher), "train.parallel": "ddp"}),
    )
    follow(
        lambda: load_config(None, {"objective.mlm": 0.0}),
        "objective must give one of mlm, nsp, sop, clm a weight, got 0 for all; give --objective.mlm 1, or a teacher "
        "with `unmask distill general TEACHER`",
        lambda: load_config(None, {"objective.mlm": 1.0}),
        lambda: parse_general([str(teacher), "--objective.mlm", "0"]),
    )


def test_layers_that_a_student_cannot_begin_with(general: General) -> None:
    wide = {"model__hidden_size": 32, "model__intermediate_size": 64}
    follow(
        lambda: general(distillation__student_layers=[1, 3, 4], **wide),
        "distillation.student_layers must have a number for each of the student's 2 layers, got 3; give "
        "--model.num_layers 3",
        lambda: general(distillation__student_layers=[1, 3, 4], distillation__map="top", model__num_layers=3, **wide),
    )
    follow(
        lambda: general(distillation__student_layers=[1, 5], **wide),
        "must be layers of the teacher, from 1 to 4, got 5; give numbers from 1 to 4",
        lambda: general(distillation__student_layers=[1, 4], **wide),
    )
    follow(
        lambda: general(distillation__student_layers=[1, 4], model__intermediate_size=64),
        "model.hidden_size is 24 but the student begins with layers of ... which has 32; give --model.hidden_size 32, "
        "or leave distillation.student_layers out",
        lambda: general(distillation__student_layers=[1, 4], **wide),
        lambda: general(model__intermediate_size=64),
    )


@pytest.fixture
def task(teacher: Path, tmp_path: Path) -> Task:
    """A run of one step of each stage on a file; what changes are settings, with `__` for a point."""
    (tmp_path / "train.tsv").write_text("sentence\tlabel\nthe cat ran\tcat\na river ran\triver\n")
    settings = {
        "model": str(teacher),
        "run": str(tmp_path / "run"),
        "data.train": str(tmp_path / "train.tsv"),
        "data.text": "sentence",
        "input.max_length": 16,
        "train.epochs": 1,
        "distillation.intermediate_epochs": 1,
        "train.dtype": "float32",
    }

    def train(name: str = "classification", **changes: Any) -> Path:
        shutil.rmtree(settings["run"], ignore_errors=True)
        given = {one.replace("__", "."): value for one, value in changes.items()}
        return unmask.finetune(unmask.load_finetune_config(name, settings | given))

    return train


def tuned(teacher: Path, out: Path, labels: tuple[str, ...] = ("cat", "river"), **sizes: Any) -> str:
    """The folder of a fine-tuned teacher."""
    config = unmask.Encoder.from_pretrained(teacher).config
    changed = replace(EncoderConfig(**{name: getattr(config, name) for name in EncoderConfig.__slots__}), **sizes)
    TaskModel(changed, HeadConfig(task="classification", labels=labels)).save_pretrained(out)
    unmask.Tokenizer.load(teacher).save(out)
    return str(out)


def test_a_teacher_that_was_not_fine_tuned_on_the_task(task: Task, teacher: Path, tmp_path: Path) -> None:
    told = (
        "distillation.teacher: ... has no output layer, and this student learns classification; fine-tune it first, "
        "with `unmask finetune classification ... --data.train FILE`, and give that run"
    )

    def fine_tuned() -> Path:
        words = ["--data.train", str(tmp_path / "train.tsv"), "--data.text", "sentence", "--input.max_length", "16"]
        assert main(["finetune", "classification", str(teacher), "--run", str(tmp_path / "tuned"), *words]) == 0
        return task(distillation__teacher=str(tmp_path / "tuned"))

    follow(lambda: task(distillation__teacher=str(teacher)), told, fine_tuned)
    assert not (tmp_path / "other").exists()
    follow(
        lambda: task("regression", distillation__teacher=str(tmp_path / "tuned")),
        "has an output layer for classification, and this student learns regression; fine-tune it first",
    )


def test_labels_in_another_order_and_other_labels(task: Task, teacher: Path, tmp_path: Path) -> None:
    turned = tuned(teacher, tmp_path / "turned", ("river", "cat"))
    follow(
        lambda: task(distillation__teacher=turned, data__labels=["cat", "river"]),
        "has the labels river, cat, in this order, and the run has cat, river; leave data.labels out, to take the "
        "teacher's order",
        lambda: task(distillation__teacher=turned),
    )
    numbered = tuned(teacher, tmp_path / "numbered", ("LABEL_0", "LABEL_1"))

    def named() -> Path:
        path = tmp_path / "numbered" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "cat", "1": "river"}}))
        return task(distillation__teacher=numbered)

    follow(
        lambda: task(distillation__teacher=numbered),
        "has the labels LABEL_0, LABEL_1, in this order, and the run has cat, river; give a training file with the "
        "teacher's labels, or write the names of its classes as id2label into its config.json",
        named,
    )


def test_files_that_are_missing_or_wrong_are_named_before_the_first_stage_and_leave_no_run(
    task: Task, teacher: Path, tmp_path: Path
) -> None:
    known, gone = tuned(teacher, tmp_path / "tuned"), str(tmp_path / "gone.tsv")
    empty = tmp_path / "empty.tsv"
    empty.write_text("")
    for wrong, told in (
        ({"distillation__prediction_data": gone}, "gone.tsv does not exist; give the path of a file"),
        ({"data__test": gone}, "gone.tsv does not exist; give the path of a file"),
        ({"data__train": str(empty)}, "has no label in any line; train on a file with labels"),
    ):
        follow(lambda wrong=wrong: task(distillation__teacher=known, **wrong), told)  # type: ignore[misc]
        assert not (tmp_path / "run").exists()
    task(distillation__teacher=known)


def test_a_student_with_another_tokenizer_and_a_short_teacher(
    task: Task, teacher: Path, texts: list[str], store: Path, tmp_path: Path
) -> None:
    known = tuned(teacher, tmp_path / "tuned")
    tokenizer = unmask.Tokenizer.train([text[::-1] for text in texts], 90)
    config = replace(unmask.Encoder.from_pretrained(teacher).config, vocab_size=tokenizer.vocab_size)
    other = tmp_path / "other"
    unmask.PretrainingModel(EncoderConfig(**{n: getattr(config, n) for n in EncoderConfig.__slots__})).save_pretrained(
        other
    )
    tokenizer.save(other)

    def general() -> Path:
        words = ["--student", "tiny", "--data.store", str(store), "--run", str(tmp_path / "general")]
        words += ["--train.steps", "1", "--model.num_heads", "4", "--stream.max_length", "24"]
        assert main(["distill", "general", known, *words]) == 0
        return task(distillation__teacher=known, model=str(tmp_path / "general"))

    follow(
        lambda: task(distillation__teacher=known, model=str(other)),
        "the tokenizer of ... is not that of ... so the two would read other words in the same ids; use the teacher's: "
        "take a student with the teacher's tokenizer, as `unmask distill general ... --data.input TEXT` makes one",
        general,
    )
    short = tuned(teacher, tmp_path / "short", max_positions=12)
    follow(
        lambda: task(distillation__teacher=short),
        "input.max_length is 16 but the teacher ... has 12 positions; give --input.max_length 12",
        lambda: task(distillation__teacher=short, input__max_length=12),
    )


def test_settings_of_distillation_without_a_teacher(task: Task, teacher: Path, tmp_path: Path) -> None:
    known = tuned(teacher, tmp_path / "tuned")
    follow(
        lambda: task(distillation__intermediate_epochs=2),
        "distillation.intermediate_epochs is 2.0 without distillation.teacher, so nothing is distilled; give the model "
        "to learn from as distillation.teacher, or leave it out",
        lambda: task(distillation__intermediate_epochs=2, distillation__teacher=known),
        lambda: task(distillation__intermediate_epochs=20),
    )


def test_words_that_the_command_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    follow(
        lambda: run_distill(["tasks"]),
        "distill: the first word must be general or task, got 'tasks'; write `unmask distill general TEACHER "
        "--data.store STORE` or `unmask distill task TASK TEACHER STUDENT --data.train FILE`",
    )
    follow(
        lambda: run_distill(["general"]),
        "distill: general takes one model, the teacher, got nothing; write `unmask distill general TEACHER --student "
        "tinybert-4 --data.store STORE`",
        lambda: parse_general(["TEACHER", "--student", "tinybert-4", "--data.store", "STORE"]),
    )
    follow(
        lambda: run_distill(["task", "classification", "TEACHER"]),
        "distill: task takes a task, a teacher and a student, got classification TEACHER; write `unmask distill task "
        "classification TEACHER STUDENT --data.train FILE`",
    )
    for words in ([], ["--help"], ["general", "--help"], ["task", "--help"], ["task", "cola", "--help"]):
        assert main(["distill", *words]) == 0
    out = capsys.readouterr().out
    assert "--student" in out and "(default: 50" in out


def test_what_neither_a_plan_nor_an_evaluation_tells(general: General, teacher: Path) -> None:
    small = {"model.num_layers": 1, "stream.micro_batch_tokens": 128, "train.tokens_per_step": 128}
    follow(
        lambda: unmask.plan("tiny", small | {"distillation.teacher": str(teacher)}),
        "plan: distillation.teacher is given, and neither the teacher nor its losses are counted; leave it out to plan "
        "the student alone",
        lambda: unmask.plan("tiny", small),
    )
    run = general(stream__held_out_fraction=0.1, train__evaluate_every=1, train__evaluate_tokens=128)
    follow(
        lambda: unmask.evaluate(run),
        "learnt from a teacher without objective.mlm, so it predicts no token; read its held-out losses in ... "
        "evaluation.jsonl",
        lambda: json.loads((run / "evaluation.jsonl").read_text().splitlines()[-1])["attention_loss"],
    )
    # what else reads a run knows that it has no masks and no head
    report = unmask.analyse(run, micro_batches=1)
    assert report.masks is None and report.distraction is not None
