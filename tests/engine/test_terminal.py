"""Output that gets lost without the work: readers that go, terminals that close, encodings and disks."""

import contextlib
import errno
import io
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from unmask.terminal import LastingStream, install_messages, lasting, messages_through
from unmask.train.logging.progress import Display

ROW: dict[str, Any] = {
    "loss": 2.5,
    "tokens_per_second": 1.0,
    "data_wait": 0.0,
    "seconds_per_step": 1.0,
    "skipped": 0,
}


class Broken(io.StringIO):
    """A stream whose every write fails with one error number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        self.write("")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_cannot_say_becomes_escapes(encoding: str) -> None:
    raw = io.BytesIO()
    stream = LastingStream(io.TextIOWrapper(raw, encoding=encoding))
    text = "m\u00fchle \u2588 \U0001f600 caf\udce9\n"
    stream.writelines([text])
    stream.flush()
    written = raw.getvalue().decode(encoding)
    assert written.endswith("caf\\udce9\n")
    assert ("\u00fc" in written) == (encoding != "ascii")
    assert ("\u2588" in written) == (encoding == "utf-8")


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.EBADF, errno.ENOSPC, errno.EAGAIN])
def test_no_error_of_the_stream_reaches_the_writer(number: int) -> None:
    stream = LastingStream(Broken(number))
    assert stream.write("a") == 1
    print("a", file=stream, flush=True)  # type: ignore[arg-type]
    assert (stream.lost is None) == (number in (errno.EPIPE, errno.EIO, errno.EBADF))


def test_a_closed_stream_takes_all_and_a_mistake_of_the_writer_is_one() -> None:
    file = io.StringIO()
    stream = LastingStream(file)
    with pytest.raises(TypeError):
        stream.write(3)  # type: ignore[arg-type]
    file.close()
    stream.write("a")
    stream.flush()
    assert lasting(None) is None
    assert lasting(stream) is stream  # type: ignore[arg-type,comparison-overlap]


def test_an_owned_descriptor_whose_reader_went_is_turned_away() -> None:
    """So that what is in its buffer harms nobody, also not at the end of the interpreter."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as file:
        stream = LastingStream(file, owned=True)
        stream.write("a")
        stream.flush()
        assert os.fstat(write).st_rdev == Path(os.devnull).stat().st_rdev


def test_a_progress_bar_outlives_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    master, slave = pty.openpty()
    # what is left in the buffer cannot be written at the end either
    with contextlib.suppress(OSError), os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        display = Display()
        with display:
            display.begin(0, steps=3)
            display.advance()
            os.close(master)
            for _ in range(2):
                display.advance()
                display.show(ROW)
                display.show_message("m\u00fchle")
                shown.append(True)
        monkeypatch.undo()
    assert shown == [True, True]


def test_progress_goes_on_where_the_reader_went_or_knows_no_umlaut(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    ascii_only = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    for stream in (Broken(errno.EPIPE), Broken(errno.EIO), ascii_only, None):
        monkeypatch.setattr(sys, "stdout", stream)
        with Display() as display:
            display.begin(0, steps=3)
            display.advance()
            display.show(ROW)
            display.show_message("m\u00fchle")
    monkeypatch.undo()
    assert b"m\\xfchle\n" in raw.getvalue()


@pytest.mark.parametrize("columns", ["0", "1", "-3", "many"])
def test_a_terminal_without_width_shows_something(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    with Display(console=Console(file=out, force_terminal=True)) as display:
        display.begin(0, steps=3)
        display.advance()
        display.show(ROW)
        display.show_message("a sentence")
    assert "a sentence" in out.getvalue()


def test_a_command_shows_messages_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("unmask.some.module")
    logging.getLogger().addHandler(twice := logging.StreamHandler(io.StringIO()))
    try:
        with install_messages():
            logger.info("100% is done")
            logger.warning("two lines")
            logger.debug("for developers")
        logger.info("after the command")
    finally:
        logging.getLogger().removeHandler(twice)
    assert capsys.readouterr() == ("", "unmask: 100% is done\nunmask: two lines\n")
    assert twice.stream.getvalue() == ""


def test_a_progress_bar_takes_the_messages_over(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("unmask.some.module")
    shown: list[str] = []
    with install_messages():
        with messages_through(shown.append):
            logger.info("above the bar")
        logger.info("behind it")
    assert shown == ["above the bar"]
    assert capsys.readouterr().err == "unmask: behind it\n"


def test_a_library_shows_warnings_only(tmp_path: Path) -> None:
    code = (
        "import logging, unmask.terminal as t\n"
        "with t.messages_through(print):\n"
        "    logging.getLogger('unmask.a').info('done'); logging.getLogger('unmask.a').warning('look')"
    )
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("", "look\n")
