"""Prepares the process for a command, so that an unusual environment does not make it fail.

Standard streams: a closed one (`>&-`) becomes the null device. Otherwise the next file to be opened would take its
place, and receive the output. The other streams never fail (`unmask.terminal`).

Signals: SIGTERM, SIGUSR1 and SIGHUP end a command as Ctrl-C does, through its clean-up. The training loop saves first
(`train.signals`).

User: a user without a name, as in some containers, gets one. If there is no home folder, Triton's cache goes to a
temporary folder.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from unmask.errors import UnmaskError
from unmask.terminal import LastingStream, lasting

__all__ = ["Stopped", "prepared_process"]


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def prepared_process() -> Iterator[None]:
    """Prepare the process for one command, and undo it afterwards.

    Raises:
        Stopped: SIGTERM, SIGUSR1 or SIGHUP arrived.
        UnmaskError: the current folder was removed.
        OSError: the command is done, but standard output could not be written, for example because the disk is full.
    """
    with contextlib.ExitStack() as stack:
        _open_missing()
        outer = sys.stdout, sys.stderr
        nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        sys.stdout, sys.stderr = (lasting(stream or nowhere, owned=True) for stream in outer)
        stack.callback(_restore, outer)
        _require_folder()
        _name_user(stack)
        stack.enter_context(_signals())
        yield
        _flush()
        if isinstance(sys.stdout, LastingStream) and sys.stdout.lost is not None:
            from unmask.paths import way_to_room

            reason = sys.stdout.lost.strerror
            way = way_to_room(reason, "make room, or write it to another place")
            raise UnmaskError(f"all is done, but standard output could not be written ({reason}); {way}")


def _open_missing() -> None:
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # `os.open` takes the lowest free descriptor, which is this one.
            os.open(os.devnull, os.O_RDWR)


def _require_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        # PyTorch's libraries abort in a folder that is gone.
        raise UnmaskError(f"the current folder is gone ({error.strerror}); change to one that exists, cd ~") from None


def _restore(streams: tuple[TextIO | None, TextIO | None]) -> None:
    _flush()
    sys.stdout, sys.stderr = streams


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _name_user(stack: contextlib.ExitStack) -> None:
    import getpass

    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        # Python, PyTorch's compiler and others look here first.
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
    if "TRITON_CACHE_DIR" not in os.environ and not _has_home():
        import tempfile

        # Triton keeps compiled kernels in the home folder; without one, it makes a folder named ~.
        with contextlib.suppress(OSError):
            kept = stack.enter_context(tempfile.TemporaryDirectory(prefix="unmask-", ignore_cleanup_errors=True))
            os.environ["TRITON_CACHE_DIR"] = kept
            stack.callback(os.environ.pop, "TRITON_CACHE_DIR", None)


def _has_home() -> bool:
    try:
        return os.access(Path.home(), os.W_OK)
    except RuntimeError:
        return False


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {}
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        # nohup starts a command with SIGHUP ignored, which must stay so.
        if signal.getsignal(number) is signal.SIG_DFL:
            previous[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
