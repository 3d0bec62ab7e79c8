"""A command in an odd process: streams closed or gone, signals, the user's modules in the folder, nobody's home."""

import getpass
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask import cli
from unmask.cli._process import prepared_process
from unmask.data.text.docstrings import cache_folder


def unmask(*words: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-m", "unmask", *words],
        env={**os.environ, "PYTHONPATH": path, **options.pop("env", {})},
        timeout=120,
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def command(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> None:
    """`unmask doctor` calls `run`."""
    monkeypatch.setattr("unmask.cli.doctor.run", lambda arguments: run())


@pytest.mark.parametrize("closed", [(0, 1, 2), (1,), (2,)])
def test_closed_streams_are_no_files_of_the_command(closed: tuple[int, ...]) -> None:
    """A file that is opened must not become the standard output."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    done = unmask("prepare", "--nonsense", stdout=None, stderr=None, preexec_fn=close)
    assert done.returncode == 2
    # by hand: what the descriptors are inside
    program = (
        "import os, unmask.cli.doctor as d, unmask.cli as c\n"
        "def run(a):\n"
        "    assert os.open(os.devnull, os.O_RDONLY) > 2\n"
        "    print('x')\n"
        "d.run = run\n"
        "os._exit(40 + c.main(['doctor']))\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    seen = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, preexec_fn=close, check=False
    )
    assert seen.returncode == 40


def test_a_reader_that_goes_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    after = []

    def run() -> None:
        print("a", flush=True)
        print("b", flush=True)
        after.append(True)

    command(monkeypatch, run)
    with os.fdopen(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert cli.main(["doctor"]) == 0
        monkeypatch.undo()
    assert after == [True]
    read, write = os.pipe()
    os.close(read)
    done = unmask("--help", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_behind_the_output_is_told_after_the_work() -> None:
    with Path("/dev/full").open("w") as full:
        done = unmask("--help", stdout=full)
    assert done.returncode == 2
    told = b"unmask: all is done, but standard output could not be written (No space left on device); make room, or "
    assert done.stderr == told + b"write it to another place\n"


def test_an_ascii_terminal_is_no_error() -> None:
    done = unmask("fill-mask", "m\u00fchle", "\U0001f600 [MASK]", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert done.returncode == 2
    assert b"m\\xfchle does not exist" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_through_its_clean_up(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def run() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            cleaned.append(True)

    command(monkeypatch, run)
    before = signal.getsignal(number)
    assert cli.main(["doctor"]) == 128 + number
    assert signal.getsignal(number) == before
    assert (cleaned, capsys.readouterr().err) == ([True], f"unmask: stopped by {number.name}\n")


def test_nohup_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert cli.main(["doctor"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_user_without_name_and_home_gets_both_while_the_command_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    assert cache_folder() is None
    with prepared_process():
        assert getpass.getuser() == f"uid-{os.getuid()}"
        kept = Path(os.environ["TRITON_CACHE_DIR"])
        assert kept.is_dir()
    assert not kept.exists()
    assert "TRITON_CACHE_DIR" not in os.environ


def test_the_current_folder_comes_last_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    assert cli.main(["--version"]) == 0
    assert sys.path[-2:] == ["", str(tmp_path)]
    for name in ("re", "typing", "pathlib", "difflib", "signal", "struct", "json", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the file of the user')")
    # an empty entry of the path is the current folder, and so is that of python -m
    done = unmask("prepare", "--out", "store", "--input", "nothing.txt", cwd=tmp_path)
    assert done.stderr.startswith(b"unmask: corpus: nothing.txt does not exist")


def test_a_folder_that_was_removed_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    done = unmask("plot", "r", cwd=folder, preexec_fn=folder.rmdir)
    assert done.stderr.startswith(b"unmask: the current folder is gone (No such file or directory); change to one that")
