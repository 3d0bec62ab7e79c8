"""What the commands advise about their words: each is followed here, and then the command does its work."""

import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.cli import COMMANDS, main
from unmask.cli.pretrain import parse


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> "type[_Told]":
    _Told.capsys = capsys
    return _Told


class _Told:
    """What a command says as it refuses, and what it prints as it works."""

    capsys: pytest.CaptureFixture[str]

    @classmethod
    def refused(cls, *words: str) -> str:
        cls.capsys.readouterr()
        assert main(list(words)) == 2
        return cls.capsys.readouterr().err.strip()

    @classmethod
    def done(cls, *words: str) -> str:
        cls.capsys.readouterr()
        assert main(list(words)) == 0, cls.capsys.readouterr().err
        return cls.capsys.readouterr().out


def test_a_command_that_does_not_exist_has_a_near_one_or_a_list(told: type[_Told]) -> None:
    found = re.search(r"did you mean ([a-z-]+)\?", told.refused("pretrian"))
    assert found is not None
    assert told.done(found[1], "--help").startswith("usage: unmask pretrain")
    listed = told.refused("zzz").partition(" is not a command; commands are ")[2].split(", ")
    assert listed == list(COMMANDS)
    assert "commands are prepare, similar-words, " in told.refused("zzz")


@pytest.mark.parametrize(
    ("words", "followed"),
    [
        (["plot", "--zzz", "runs/a"], None),
        (["config", "--zzz", "1"], None),
        (["prepare", "--out"], None),
        (["evaluate", "a", "b"], None),
        (["config", "--train.stps", "3"], ["config", "--train.steps", "3"]),
        (["config", "--train.no_tensorboard=1"], ["config", "--train.no_tensorboard"]),
        (["config", "tiny", "roberta"], ["config", "tiny"]),
        (["config", "tiny", "train.steps=3"], ["config", "tiny", "--train.steps", "3"]),
        (["config", "--run", "-x"], ["config", "--run=-x"]),
        (["config", "--train.phases", "[]\nx: 1"], ["config", "--train.phases", "[]"]),
        (["doctor", "--why", "gelo"], ["doctor", "--why", "gelu"]),
    ],
)
def test_words_that_are_wrong_are_mended(words: list[str], followed: list[str] | None, told: type[_Told]) -> None:
    message = told.refused(*words)
    if followed is None:
        command = re.search(r"run `unmask (.+ --help)` for the options", message)
        assert command is not None, message
        assert told.done(*command[1].split()).startswith(f"usage: unmask {words[0]}")
    else:
        assert told.done(*followed)


def test_a_recipe_beside_a_run_that_goes_on_is_left_out(tmp_path: Path, told: type[_Told]) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    message = told.refused("pretrain", "bert-mini", "--resume", str(tmp_path))
    assert f"config: --resume {tmp_path} keeps the saved configuration; leave 'bert-mini' out" in message
    left_out = message.partition("leave '")[2].partition("'")[0]
    words = [word for word in ["bert-mini", "--resume", str(tmp_path)] if word != left_out]
    assert parse(words)[0].seed == 3


def test_text_and_fields_without_an_option_get_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: type[_Told]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my text.jsonl").write_text('{"body": "the mill turns", "title": "a mill"}\n')
    common = ["prepare", "--vocab-size", "100"]
    message = told.refused(*common, "my text.jsonl", "--out", "a")
    given = shlex.split(message.partition("give text as ")[2].partition(", or run")[0])
    message = told.refused(*common, *given, "--text-field", "title", "body", "--out", "a")
    fields = shlex.split(message.partition("give several fields as ")[2].partition(", or run")[0])
    assert "1 document" in told.done(*common, *given, *fields, "--out", "a")
    message = told.refused("prepare", "--out", "b")
    assert "give text with --input, or the embedded corpus with --input docstrings:" in message
    told.done(*common, *given, *fields, "--out", "b")
    message = told.refused(*common, *given, *fields, "--tokenizer", "a/tokenizer", "--out", "c")
    assert "leave one of them out" in message
    told.done("prepare", *given, *fields, "--tokenizer", "a/tokenizer", "--out", "c")


def test_a_plot_is_drawn_after_the_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: type[_Told]) -> None:
    pytest.importorskip("matplotlib")
    run = tmp_path / "run"
    run.mkdir()
    assert "give the directory of a run" in told.refused("plot", str(tmp_path / "absent"))
    (run / "log.jsonl").write_text("")
    assert "has no logged step yet; wait for the first, after train.log_every steps" in told.refused("plot", str(run))
    (run / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    wrong = told.refused("plot", str(run), "--out", str(tmp_path / "a.xyz"))
    assert "plot: cannot write " in wrong and wrong.endswith("; give --out another suffix")
    wrong = told.refused("plot", str(run), "--out", str(tmp_path / "gone" / "a.svg"))
    assert "a.svg cannot be written (No such file or directory); give --out another place" in wrong
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "matplotlib", None)
        assert told.refused("plot", str(run)) == "unmask: plot: needs matplotlib; pip install 'unmask[plots]'"
    assert str(tmp_path / "a.svg") in told.done("plot", str(run), "--out", str(tmp_path / "a.svg"))


def test_an_analysis_is_made_after_the_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: type[_Told]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("\n\n".join(f"the mill {number} turns and the river runs past it" for number in range(60)))
    assert "give a run, one of its checkpoints, or a store" in told.refused("analyse", "store")
    Path("folder").mkdir()
    assert "unmask prepare makes a store, unmask pretrain a run" in told.refused("analyse", "folder")
    made = ["prepare", "--input", "a.txt", "--blank-line-documents", "--vocab-size", "100", "--out", "store"]
    told.done(*made)
    small = ["--micro-batches", "2", "--stream.micro_batch_tokens", "256"]
    assert "leave --data.store out" in told.refused("analyse", "store", *small, "--data.store", "other")
    assert "give another one with --out" in told.refused("analyse", "store", *small, "--out", "a.txt")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "matplotlib", None)
        assert told.refused("analyse", "store", *small, "--out", "numbers").endswith(
            "unmask: analyse: numbers/tables.md is written, the plots need matplotlib; pip install 'unmask[plots]'"
        )
    assert Path("numbers/tables.md").exists()
    assert "tables.md" in told.done("analyse", "store", *small, "--out", "found")
    assert "is replaced; --out FOLDER keeps it" not in told.done("analyse", "store", *small)


@pytest.mark.parametrize(
    ("error", "says", "known_to_pip"),
    [
        (ModuleNotFoundError("no", name="ruamel"), "package ruamel is not installed; pip install", "ruamel.yaml"),
        (ModuleNotFoundError("no", name="yaml"), "package yaml is not installed; pip install", "PyYAML"),
        (
            ModuleNotFoundError("no", name="frobnicate"),
            "package frobnicate is not installed; pip install",
            "frobnicate",
        ),
        (
            ModuleNotFoundError("no", name="pyarrow.absent"),
            "package pyarrow has no module pyarrow.absent; pip install --force-reinstall",
            "pyarrow",
        ),
    ],
)
def test_a_package_that_is_missing_has_the_name_that_pip_knows(
    error: ImportError, says: str, known_to_pip: str, monkeypatch: pytest.MonkeyPatch, told: type[_Told]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in ("ruamel", "yaml") else find_spec(name)
    )
    with monkeypatch.context() as patched:
        patched.setattr("unmask.cli.doctor.run", _raising(error))
        assert told.refused("doctor") == f"unmask: {says} {known_to_pip}"
    assert told.done("doctor", "--json")


def test_a_module_that_this_python_lacks_is_no_package(monkeypatch: pytest.MonkeyPatch, told: type[_Told]) -> None:
    monkeypatch.setattr("unmask.cli.doctor.run", _raising(ModuleNotFoundError("no", name="_lzma")))
    assert told.refused("doctor") == (
        "unmask: this Python was built without its module _lzma; use one that has it, such as those of python.org"
    )


def test_each_package_that_unmask_requires_has_the_name_that_pip_knows() -> None:
    """Of those whose names for import and for pip differ."""
    from unmask.cli import _NAMES_FOR_PIP

    required = {re.split(r"[^\w.-]", line)[0] for line in importlib.metadata.requires("unmask") or []}
    for module, distributions in importlib.metadata.packages_distributions().items():
        for name in set(distributions) & required:
            as_imported = name.replace("-", "_").lower()
            if module in _NAMES_FOR_PIP or (as_imported != module.lower() and as_imported.startswith(f"{module}.")):
                assert _NAMES_FOR_PIP.get(module) == name


def test_output_that_found_no_room_goes_to_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: type[_Told]
) -> None:
    ways = {28: "make room, or write it to another place", 27: "raise the limit for the size of a file (ulimit -f)"}
    for number, way in ways.items():

        class Full(io.StringIO):
            def write(self, text: str, number: int = number) -> int:
                raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", Full())
            assert told.refused("--help") == (
                f"unmask: all is done, but standard output could not be written ({os.strerror(number)}); {way}"
            )
    with (tmp_path / "out").open("w") as out, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", out)
        assert main(["--help"]) == 0
    assert (tmp_path / "out").read_text().startswith("usage: unmask")


def test_a_folder_that_is_gone_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: type[_Told]) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert told.refused("--help") == (
        "unmask: the current folder is gone (No such file or directory); change to one that exists, cd ~"
    )
    os.chdir(tmp_path)
    assert told.done("--help").startswith("usage: unmask")


def _raising(error: Exception) -> Callable[[list[str]], None]:
    def run(arguments: list[str]) -> None:
        raise error

    return run
