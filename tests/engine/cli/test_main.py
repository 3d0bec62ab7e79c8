"""The command's door: what it lists, and how an error reaches the user."""

import os
import subprocess
import sys

import numpy as np
import pytest

from unmask import cli
from unmask.config import EncoderConfig
from unmask.data.compose import sequences
from unmask.errors import RunError
from unmask_kernels import BackendUnavailable


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if f"\n  {name} " not in out] == []


def test_no_argument_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "usage: unmask COMMAND" in capsys.readouterr().out


def test_help_loads_no_third_party_package() -> None:
    code = (
        "import sys; from unmask.cli import main; main(['--help']); "
        "print(sorted({'torch', 'numpy', 'argparse', 'ruamel', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.splitlines()[-1] == "[]"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_python_m_unmask_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unmask", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert done.stdout.startswith("unmask ")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_its_arguments(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([command, "--help"], ["help", command]):
        assert cli.main(words) == 0
        assert f"usage: unmask {command}" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version_is_told(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 0
    assert capsys.readouterr().out.startswith("unmask ")


def test_unknown_command_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrian"]) == 2
    assert capsys.readouterr().err == "unmask: 'pretrian' is not a command; did you mean pretrain?\n"
    for word, meant in (("train", "pretrain"), ("analyze", "analyse"), ("--pretrain", "pretrain"), ("helpp", "help")):
        assert cli.main([word]) == 2
        assert f"did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RunError("runs/a exists already"), 2, "unmask: runs/a exists already\n"),
        (
            OSError(28, "No space left on device", "a.txt"),
            2,
            "unmask: a.txt: No space left on device; make room, or choose another place\n",
        ),
        (
            ModuleNotFoundError("no", name="pyarrow.lib"),
            2,
            "unmask: package pyarrow has no module pyarrow.lib; pip install --force-reinstall pyarrow\n",
        ),
        (
            ImportError("libarrow.so: failed to map segment", name="pyarrow.lib"),
            2,
            "unmask: package pyarrow cannot be loaded (libarrow.so: failed to map segment); install it again, or free "
            "memory if it lacks that\n",
        ),
        (BackendUnavailable("gelu: no backend can run"), 2, "unmask: gelu: no backend can run\n"),
        (KeyboardInterrupt(), 130, "unmask: interrupted\n"),
    ],
)
def test_error_becomes_one_line(
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNMASK_TRACEBACK", "0")
    fail_with(error, monkeypatch)
    assert cli.main(["doctor"]) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("value", ["1", "yes", "TRUE"])
def test_the_traceback_is_shown_where_it_is_asked_for(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNMASK_TRACEBACK", value)
    fail_with(RunError("runs/a exists already"), monkeypatch)
    assert cli.main(["doctor"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "report" not in told


@pytest.mark.parametrize("value", ["", " ", "0", "false", "No", "off"])
def test_no_traceback_is_shown_where_none_is_asked_for(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_TRACEBACK", value)
    fail_with(RunError("runs/a exists already"), monkeypatch)
    assert cli.main(["doctor"]) == 2


@pytest.mark.parametrize(
    "error",
    [
        KeyError("oops"),
        ValueError("raised by a test, not by a check of unmask"),
        FileNotFoundError(2, "No such file or directory", "a.txt"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_our_own_mistake_shows_its_traceback_and_asks_for_a_report(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(error, monkeypatch)
    assert cli.main(["doctor"]) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "please report it" in told


def test_an_argument_error_of_a_check_is_one_line_and_one_of_a_library_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unmask.cli import doctor

    monkeypatch.setattr(doctor, "run", lambda words: EncoderConfig().token_rows)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == (
        "unmask: EncoderConfig: vocab_size must be the number of the tokenizer's ids, got nothing\n"
    )
    # numpy raises its ValueError in a function of ours, too
    monkeypatch.setattr(doctor, "run", lambda words: list(sequences.ranges(np.zeros(2), np.zeros(3))))
    assert cli.main(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.cli import doctor

    def run(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr(doctor, "run", run)


def test_the_list_of_commands_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(cli.COMMANDS)
    assert max(map(len, lines)) <= 80
