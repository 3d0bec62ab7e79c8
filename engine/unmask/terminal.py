"""Output that may get lost without the work: a stream that takes every text and never fails.

The terminal of a disowned job closes, the reader of a pipe goes away, the disk behind `> log.txt` fills up, an old
terminal knows no umlaut. None of them is a reason to lose a training run, so what cannot be written is dropped, and
what the encoding cannot say is written as escapes.
"""

import errno
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LastingStream", "lasting", "with_width"]

_WIDTH = 80

# nobody will ever read what is written here: the other end is closed, hung up, or the descriptor is
_GONE = frozenset({errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF, errno.ECONNRESET, errno.ESTALE})


class LastingStream:
    """A text stream around another one; attributes that are not named here are the other's.

    Attributes:
        lost: the first error of a stream that still has a reader (a full disk); None while there is none.
    """

    def __init__(self, stream: TextIO, *, owned: bool = False) -> None:
        """Wrap `stream`; `owned`: where its reader is gone, its descriptor may be turned to the null device."""
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
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush what can be flushed."""
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
            # what is still in the buffer goes there too, also when the interpreter ends
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lasting(stream: TextIO | None, *, owned: bool = False) -> TextIO | None:
    """`stream` as one that never fails; None, which is what Python has for a closed one, stays."""
    if stream is None or isinstance(stream, LastingStream):
        return stream
    return cast(TextIO, LastingStream(stream, owned=owned))


def with_width(console: "Console") -> "Console":
    """`console`, 80 columns wide where the environment says 0, in which nothing would be shown."""
    if console.width < 1:
        console.width = _WIDTH
    return console
