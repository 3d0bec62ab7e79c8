"""Distillation on text: a run that learns, resumes with the same bits, and is read by transformers."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from advice import follow
from unmask.cli import main
from unmask.cli.distill import parse_general
from unmask.config import RunConfig, load_config
from unmask.distillation.student import Student
from unmask.interop.find_model import find_model
from unmask.train.logging.log import read_evaluations, read_log
from unmask.train.run_folder import saved_config
from unmask.train.trainer import Trainer

TIMES = ("tokens_per_second", "data_wait", "seconds_per_step", "peak_memory_bytes")
LOSSES = {"embedding_loss", "hidden_loss", "attention_loss"}


def distil(settings: dict[str, Any], **changes: Any) -> Path:
    """Train; what changes are settings of `distillation` and of `train`."""
    return unmask.pretrain(
        load_config(None, settings | {name.replace("__", "."): one for name, one in changes.items()})
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(find_model(run).path / "model.safetensors")


def rows(run: Path) -> list[dict[str, Any]]:
    found = read_log(run) + read_evaluations(run)
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


def test_a_student_learns_and_transformers_loads_it(settings: dict[str, Any]) -> None:
    run = distil(settings, train__steps=12, train__evaluate_every=12, optimizer__learning_rate=1e-2)
    before, *_, after = read_evaluations(run)
    assert before.keys() >= LOSSES and not any("accuracy" in name or "count" in name for name in before)
    for name in LOSSES:
        assert after[name] < 0.95 * before[name], name
    assert not any("accuracy" in name for name in read_log(run)[-1])
    # no head and no pooler that nothing trained, no projection, and a tokenizer
    names = weights(run).keys()
    assert not any(name.startswith(("cls", "pooler", "projections")) for name in names)
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer, BertModel

    folder = find_model(run).path
    theirs = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ours = unmask.Encoder.from_pretrained(run)
    inputs = AutoTokenizer.from_pretrained(folder)(["the cat sat"], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs), theirs(**inputs).last_hidden_state, rtol=0, atol=1e-5)


def test_a_student_resumes_with_the_bits_of_one_that_did_not_stop(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unbroken = distil(settings, run=str(tmp_path / "unbroken"), optimizer__ema_decay=0.5, distillation__relation=0.5)
    step = Trainer._train_step

    def stopped(self: Trainer, *given: Any) -> None:
        step(self, *given)
        if self.state.done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_train_step", stopped)
    run = distil(settings, optimizer__ema_decay=0.5, distillation__relation=0.5)
    assert find_model(run).steps == 4
    monkeypatch.setattr(Trainer, "_train_step", step)
    # the command that begins a run names the one that continues it
    capsys.readouterr()
    assert main(["distill", "general", settings["distillation.teacher"], "--resume", str(run)]) == 2
    told = capsys.readouterr().err
    assert "distill: general begins a run and takes no --resume; go on with one that stopped with `unmask pret" in told
    [_, command, _] = told.split("`")
    assert command == f"unmask pretrain --resume {run}"
    assert main(command.split()[1:]) == 0
    one, other = weights(unbroken), weights(run)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert rows(run) == rows(unbroken)


def test_a_teacher_that_moved_is_found_and_another_one_is_refused(
    settings: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    run = distil(settings, distillation__teacher=str(moved), train__steps=2)
    other = unmask.PretrainingModel.from_pretrained(teacher)
    other.mlm.bias.data += 1.0
    other.save_pretrained(moved)

    def resume(**changes: Any) -> Path:
        given = {"train.steps": 3, **{name.replace("__", "."): one for name, one in changes.items()}}
        return unmask.pretrain(saved_config(run, given), resume=run)

    follow(
        resume,
        "has other weights than the model that ... began to learn from; put that model back, give its place as "
        "--distillation.teacher, or start a new run",
        lambda: resume(distillation__teacher=str(teacher)),
    )


def test_a_student_begins_with_layers_of_the_teacher(settings: dict[str, Any], teacher: Path) -> None:
    arguments = [str(teacher), "--distillation.student_layers", "2", "4", "--run", settings["run"]]
    arguments += [word for name in ("data.store", "train.dtype") for word in (f"--{name}", settings[name])]
    arguments += ["--stream.max_length", "24", "--stream.micro_batch_tokens", "128", "--train.tokens_per_step", "128"]
    arguments += ["--train.steps", "1", "--optimizer.learning_rate", "1e-9", "--stream.workers", "0"]
    assert main(["distill", "general", *arguments]) == 0
    student, original = unmask.Encoder.from_pretrained(settings["run"]), unmask.Encoder.from_pretrained(teacher)
    assert student.config.num_layers == 2 and student.config.hidden_size == 32
    for own, theirs in ((0, 1), (1, 3)):
        for name, value in student.layers[own].named_parameters():
            torch.testing.assert_close(value, dict(original.layers[theirs].named_parameters())[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(student.embeddings.word.weight, original.embeddings.word.weight, rtol=0, atol=1e-6)


def test_masked_words_are_learnt_beside_the_teacher_if_they_are_asked_for(settings: dict[str, Any]) -> None:
    run = distil(settings, objective__mlm=0.5, train__steps=2)
    row = read_log(run)[-1]
    assert LOSSES | {"mlm_loss", "masked_accuracy", "perplexity"} <= row.keys()
    assert unmask.PretrainingModel.from_pretrained(run).nsp is None


def test_text_is_read_by_the_teachers_tokenizer(settings: dict[str, Any], texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    settings |= {"data.store": None, "data.input": [str(tmp_path / "text.txt")], "data.blank_line_documents": True}
    run = distil(settings, train__steps=1)
    own = unmask.Tokenizer.load(find_model(run).path)
    assert own.hash == unmask.Tokenizer.load(settings["distillation.teacher"]).hash


def general(*words: str) -> RunConfig:
    return parse_general(["TEACHER", *words])


def test_the_command_takes_the_recipe_of_a_student_and_no_other_loss_unless_it_is_named(tmp_path: Path) -> None:
    config = general("--student", "tinybert-4", "--data.store", "S")
    assert (config.model.num_layers, config.model.hidden_size, config.model.intermediate_size) == (4, 312, 1200)
    assert config.model.head_dim == 26 and config.model.num_heads == 12
    assert config.distillation.teacher == "TEACHER" and config.objective.mlm == 0.0
    assert general("--data.store", "S") == config
    assert general("--objective.mlm", "1").objective.mlm == 1.0
    mine = tmp_path / "mine.yaml"
    mine.write_text("objective: {mlm: 0.3}\n")
    assert general("--student", str(mine)).objective.mlm == 0.3
    six = general("--student", "tinybert-6").model
    assert (six.num_layers, six.hidden_size, six.intermediate_size, six.head_dim) == (6, 768, 3072, 64)


def test_the_students_have_as_many_parameters_as_those_of_the_paper() -> None:
    found = []
    for recipe in ("tinybert-4", "tinybert-6"):
        sizes = general("--student", recipe).model
        matrices = 4 * sizes.hidden_size**2 + 2 * sizes.hidden_size * sizes.intermediate_size
        found.append(sizes.num_layers * matrices + (30_522 + 512 + 2) * sizes.hidden_size)
    # 14.5 and 67 millions, with the pooler and the vectors
    assert found == pytest.approx([14.5e6, 67e6], rel=0.02)


def test_the_student_of_the_paper_is_a_bert_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import BertModel

    sizes = replace(general("--student", "tinybert-4").model, vocab_size=50, max_positions=16, num_segments=2)
    student = Student(sizes, seed=1).eval()
    student.save_pretrained(tmp_path / "student")
    theirs = BertModel.from_pretrained(tmp_path / "student", add_pooling_layer=False).eval()
    ids = torch.tensor([[2, 5, 6, 7, 8, 3]])
    with torch.no_grad():
        ours = student.encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
        torch.testing.assert_close(ours, theirs(ids).last_hidden_state, rtol=0, atol=1e-5)


def test_a_model_card_and_an_export_of_a_student_are_written(settings: dict[str, Any], tmp_path: Path) -> None:
    run = distil(settings, train__steps=1)
    unmask.export(run, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["BertModel"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A BERT encoder without heads: 2 layers, 24 wide" in card
    assert "| objectives | embedding, hidden, attention |" in card
    # the settings of the card train such a student again
    (tmp_path / "settings.yaml").write_text(card.partition("```yaml\n")[2].partition("```")[0])
    assert "`unmask distill general TEACHER --student settings.yaml --data.store STORE`" in card
    again = ["--student", str(tmp_path / "settings.yaml"), "--data.store", settings["data.store"]]
    config = parse_general([settings["distillation.teacher"], *again])
    assert config.model == saved_config(run).model and config.objective.mlm == 0.0
