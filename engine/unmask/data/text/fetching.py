"""Files of another machine, copied to this one by a process that can be ended if it stalls.

File systems of fsspec wait for ever, or for minutes, each in its own way, and some cannot be used after a fork, as the
loader's workers would. So a new process copies the files, one after the other. This one looks at the growing copies,
and ends the process when nothing has come for a while. `memory://` exists in one process only, so there a thread
copies.

Cost: 0.3 s to start a process.
"""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from unmask.data.text.remote import remote_path, shown
from unmask.errors import CorpusError

__all__ = ["StalledError", "copy_files", "fetch"]

_START = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer)\n"
_START += "from unmask.data.text.fetching import copy_files; copy_files()"
# nothing is imported from the current folder before the path is set; file names are decoded as in the parent
_ALONE = ("-I", "-X", f"utf8={sys.flags.utf8_mode}")
_LOOK_SECONDS = 0.05
# a busy machine may take so long to start a process
_START_SECONDS = 60.0

_Files = Sequence[tuple[str, Path]]


class StalledError(TimeoutError):
    """Nothing came for too long.

    Attributes:
        number: the file that was being copied, by its place in the list.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def fetch(files: _Files, *, patience: float) -> list[OSError | None]:
    """Copy files to this machine.

    Args:
        files: the address of each, such as `s3://bucket/store/shard-00000.arrow`, and the copy to make, whose folder
            exists.
        patience: seconds without a byte after which the copying is given up.
    Returns:
        For each file None, or why it is not copied: FileNotFoundError if it does not exist, else OSError.
    Raises:
        StalledError: nothing came for `patience` seconds.
    """
    for _, target in files:
        target.unlink(missing_ok=True)
    in_memory = files[0][0].startswith("memory:")
    copying: _Copying = _Thread(files) if in_memory else _Process(files)
    try:
        seen, since = (-1, -1), time.monotonic()
        while not copying.ended(_LOOK_SECONDS):
            done = len(copying.outcomes)
            size = sum(target.stat().st_size for _, target in files if target.exists())
            if (done, size) != seen:
                seen, since = (done, size), time.monotonic()
            elif time.monotonic() - since > patience + (0 if copying.ready.is_set() else _START_SECONDS):
                raise StalledError(min(done, len(files) - 1), f"no byte came for {patience:g} s")
        said = copying.outcomes
    finally:
        copying.end()
    ended = ["failed", "the process that copies it ended early"]
    return [_error(*outcome) for outcome in [*said, *[ended] * (len(files) - len(said))]]


def _error(kind: str, message: str) -> OSError | None:
    if kind == "done":
        return None
    return FileNotFoundError(message) if kind == "missing" else OSError(message)


def copy_files() -> None:
    """Copy the files that the standard input names, and print how each went; the body of a process."""
    # a signal to the whole process group is for the parent to handle
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    files = pickle.load(sys.stdin.buffer)
    with suppress(CorpusError):
        # imports what the protocol needs; an error comes again below
        remote_path(files[0][0])
    print(flush=True)
    for outcome in _copied(files):
        print(json.dumps(outcome), flush=True)


def _copied(files: Iterable[tuple[str, str]]) -> Iterator[list[str]]:
    for address, target in files:
        try:
            found = remote_path(address)
            found.system.get_file(found.key, target)
            yield ["done", ""]
        except FileNotFoundError:
            yield ["missing", "no such file"]
        except CorpusError as error:
            yield ["failed", str(error).removeprefix("corpus: ").removeprefix(f"{shown(address)} ")]
        # each file system has errors of its own
        except Exception as error:
            yield ["failed", _without_keys(f"{type(error).__name__}: {error}", address)]


def _without_keys(message: str, address: str) -> str:
    """Return a message without what `shown` leaves out of an address."""
    message = message.replace(address, shown(address))
    user, at, _ = address.partition("://")[2].partition("/")[0].rpartition("@")
    for secret in (address.partition("?")[2], user + at):
        message = message.replace(secret, "...") if secret else message
    return message


class _Copying(threading.Thread):
    """A thread that notes in `outcomes` how each file went; `ready` is set when the first one begins."""

    def __init__(self, files: _Files) -> None:
        super().__init__(daemon=True)
        self.ready = threading.Event()
        self.outcomes: list[list[str]] = []
        self._files = [(address, str(target)) for address, target in files]
        self.start()

    def ended(self, seconds: float) -> bool:
        """Wait for some seconds; return whether all is done."""
        self.join(seconds)
        return not self.is_alive()

    def end(self) -> None:
        """Give up what is not done."""


class _Thread(_Copying):
    """Copies by itself. If that stalls, it cannot be ended, and goes with this process."""

    def run(self) -> None:
        self.ready.set()
        for outcome in _copied(self._files):
            self.outcomes.append(outcome)


class _Process(_Copying):
    """Has a process copy, and listens to it."""

    def __init__(self, files: _Files) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *_ALONE, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        super().__init__(files)

    def run(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # an address may hold keys, so it is no argument, which any user of the machine sees
        with self._process.stdin as stdin:
            stdin.write(pickle.dumps(sys.path) + pickle.dumps(self._files))
        self._process.stdout.readline()
        self.ready.set()
        for line in self._process.stdout:
            self.outcomes.append(json.loads(line))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
