"""Text of a run that starts from a checkpoint is prepared with the checkpoint's tokenizer."""

import json
import shutil
from pathlib import Path

import pytest

from initial_runs import SMALL, start
from local_hub import serving
from unmask.cli import main
from unmask.data.tokenizer import Tokenizer
from unmask.train.logging.log import read_log
from unmask.train.pretrain import pretrain
from unmask.train.run_folder import saved_config


def test_text_is_prepared_with_the_tokenizer_of_the_checkpoint(
    model_folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    small += ["--data.input", str(corpus / "text.jsonl"), "--run", str(tmp_path / "run")]
    assert main(["pretrain", "continue", "--init.from", str(model_folder), *small]) == 0
    made = Tokenizer.load(tmp_path / "run" / "store")
    assert made.hash == Tokenizer.load(model_folder).hash
    shutil.rmtree(model_folder)
    assert main(["pretrain", "--resume", str(tmp_path / "run"), "--train.steps", "3"]) == 0
    assert read_log(tmp_path / "run")[-1]["step"] == 3


def test_docstrings_are_prepared_with_it_too_and_a_resumed_run_finds_them(
    model_folder: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.text.corpus import Document

    texts = [json.loads(line)["text"] for line in (corpus / "text.jsonl").read_text().splitlines()]
    documents = [Document(text=text, source="python", origin=str(n)) for n, text in enumerate(texts)]
    for module in ("unmask.train.store", "unmask.data.prepare.inputs"):
        monkeypatch.setattr(f"{module}.docstring_corpus", lambda **_: documents)
    run = start(model_folder, None, tmp_path / "run")
    shutil.rmtree(model_folder)
    pretrain(saved_config(run, {"train.steps": 3}), resume=run)
    assert read_log(run)[-1]["step"] == 3
    assert main(["evaluate", str(run)]) == 0


def test_a_run_starts_from_a_model_of_the_hub(
    model_folder: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(monkeypatch, tmp_path / "home") as hub:
        hub.add("org/name", model_folder)
        run = start("org/name", None, tmp_path / "run", data__input=[str(corpus / "text.jsonl")])
        command = ["prepare", "--input", str(corpus / "text.jsonl"), "--tokenizer", "org/name", "--out", "store"]
        assert main(command) == 0
    assert "try: unmask pretrain continue --init.from org/name --data.store store" in capsys.readouterr().out
    assert json.loads((run / "initial.json").read_text())["hub"] == "org/name"
    shutil.rmtree(tmp_path / "home")
    pretrain(saved_config(run, {"train.steps": 3}), resume=run)
