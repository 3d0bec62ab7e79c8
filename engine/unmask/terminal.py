"""What a command shows: streams that never fail, and log messages as lines.

A terminal closes, the reader of a pipe exits, the disk behind `> log.txt` fills up, an old terminal knows no umlaut.
None of these may end a training run. `LastingStream` drops what cannot be written, and writes an escape for a character
that the encoding does not have.

The package logs under the name `unmask`: INFO for what was done, WARNING for what a user should know. A command shows
both with `install_messages`. A progress bar takes them over with `messages_through`, which prints them above it.
"""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LastingStream", "install_messages", "lasting", "messages_through", "with_width"]

# nobody reads this stream any more: its other end or its descriptor is closed
_GONE = frozenset({errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF, errno.ECONNRESET, errno.ESTALE})


class LastingStream:
    """A text stream around another one; attributes that are not defined here are the other's.

    Attributes:
        lost: the first error of a stream that still has a reader, such as a full disk; None before any.
    """

    def __init__(self, stream: TextIO, *, owned: bool = False) -> None:
        """Wrap `stream`, whose descriptor, if `owned`, is pointed at the null device once its reader is gone."""
        self.lost: OSError | None = None
        self._stream = stream
        self._owned = owned

    def write(self, text: str) -> int:
        """Write what the stream takes of `text`."""
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                self._stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError) as error:
            self._note(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._note(error)

    def _note(self, error: OSError | ValueError) -> None:
        if isinstance(error, ValueError):
            if not self._stream.closed:
                raise error
        elif error.errno not in _GONE:
            self.lost = self.lost or error
        elif self._owned:
            # the rest of the buffer goes there too, also when the interpreter ends
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lasting(stream: TextIO | None, *, owned: bool = False) -> TextIO | None:
    """Return `stream` as one that never fails; None, Python's word for a closed stream, stays None."""
    if stream is None or isinstance(stream, LastingStream):
        return stream
    return cast(TextIO, LastingStream(stream, owned=owned))


def with_width(console: "Console") -> "Console":
    """Return `console`, made 80 columns wide if the environment says 0, where nothing would be visible."""
    if console.width < 1:
        console.width = 80
    return console


@contextlib.contextmanager
def install_messages() -> Iterator[None]:
    """Show log messages of `unmask`, INFO and above, as lines `unmask: MESSAGE` on standard error.

    For a command. A library leaves this to its user: without it Python shows warnings only.
    """
    logger = logging.getLogger("unmask")
    handler = _Handler()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # a handler of the root logger would show each message a second time
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextlib.contextmanager
def messages_through(show: Callable[[str], None]) -> Iterator[None]:
    """Give log messages to `show` while this context lasts, for example to print them above a progress bar.

    Without `install_messages` it does nothing: the messages go where the user of the library has them go.
    """
    handlers = [handler for handler in logging.getLogger("unmask").handlers if isinstance(handler, _Handler)]
    before = [handler.show for handler in handlers]
    for handler in handlers:
        handler.show = show
    try:
        yield
    finally:
        for handler, shown in zip(handlers, before, strict=True):
            handler.show = shown


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.show: Callable[[str], None] = _print_to_stderr

    def emit(self, record: logging.LogRecord) -> None:
        # a message that standard output has already
        if not getattr(record, "shown", False):
            self.show(record.getMessage())


def _print_to_stderr(message: str) -> None:
    print(f"unmask: {message}", file=lasting(sys.stderr))
