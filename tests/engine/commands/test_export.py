"""`unmask.export`: what the command writes, with values instead of a printed line, and the command's errors."""

from __future__ import annotations

from pathlib import Path

import pytest

import unmask
from unmask.cli import main
from unmask.errors import UnmaskError


def test_it_returns_what_was_written_and_what_loads_it(run_folder: Path, tmp_path: Path) -> None:
    exported = unmask.export(str(run_folder), str(tmp_path / "exported"))
    assert exported.folder == tmp_path / "exported"
    assert exported.model == run_folder / "checkpoints" / "step-000020"
    assert (exported.step, exported.loader) == (20, "AutoModelForMaskedLM")
    assert unmask.PretrainingModel.from_pretrained(exported.folder).config.hidden_size == 16


def test_the_command_writes_the_same_files_and_prints_the_line(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = unmask.export(run_folder, tmp_path / "function")
    assert main(["export", str(run_folder), str(tmp_path / "command")]) == 0
    assert capsys.readouterr().out == exported.line().replace("/function", "/command") + "\n"
    for path in exported.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "command" / path.name).read_bytes()


@pytest.mark.parametrize("mistake", ["no model", "no checkpoint", "a folder with files", "no tokenizer"])
def test_a_mistake_has_the_sentence_of_the_command(
    mistake: str, run_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = {
        "no model": (tmp_path / "nothing", tmp_path / "out"),
        "no checkpoint": (run_folder, tmp_path / "out"),
        "a folder with files": (run_folder, model_folder),
        "no tokenizer": (model_folder, tmp_path / "out"),
    }[mistake]
    if mistake == "no checkpoint":
        (run_folder / "checkpoints").rename(tmp_path / "elsewhere")
    if mistake == "no tokenizer":
        for name in ("tokenizer.json", "vocab.txt"):
            (model_folder / name).unlink()
    with pytest.raises(UnmaskError) as caught:
        unmask.export(model, out)
    assert main(["export", str(model), str(out)]) == 2
    assert capsys.readouterr().err == f"unmask: {caught.value}\n"
