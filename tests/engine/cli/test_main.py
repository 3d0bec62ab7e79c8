"""The command's door: what it lists, and how an error reaches the user."""

import os
import subprocess
import sys

import pytest

from unmask import cli
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
        "print(sorted({'torch', 'numpy', 'tyro', 'pydantic', 'yaml'} & set(sys.modules)))"
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
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: unmask {command}" in capsys.readouterr().out


def test_unknown_command_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrian"]) == 2
    assert capsys.readouterr().err == "unmask: 'pretrian' is not a command; did you mean pretrain?\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RunError("runs/a exists already"), 2, "unmask: runs/a exists already\n"),
        (ValueError("x must be 3"), 2, "unmask: x must be 3\n"),
        (
            FileNotFoundError(2, "No such file or directory", "a.txt"),
            2,
            "unmask: a.txt: No such file or directory\n",
        ),
        (
            ModuleNotFoundError("no", name="pyarrow.lib"),
            2,
            "unmask: package pyarrow is not installed; pip install pyarrow\n",
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
def test_the_traceback_is_shown_where_it_is_asked_for(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_TRACEBACK", value)
    fail_with(RunError("runs/a exists already"), monkeypatch)
    with pytest.raises(RunError):
        cli.main(["doctor"])


@pytest.mark.parametrize("value", ["", " ", "0", "false", "No", "off"])
def test_no_traceback_is_shown_where_none_is_asked_for(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_TRACEBACK", value)
    fail_with(RunError("runs/a exists already"), monkeypatch)
    assert cli.main(["doctor"]) == 2


def test_our_own_mistake_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(KeyError("oops"), monkeypatch)
    with pytest.raises(KeyError):
        cli.main(["doctor"])


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.cli import doctor

    def run(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr(doctor, "run", run)
