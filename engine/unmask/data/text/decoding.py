"""Opening and decoding text files: plain, .gz or .zst, strictly UTF-8.

A byte that is not UTF-8 is refused with its offset from 0, in a compressed file that of the decompressed bytes. Text is
decoded about a megabyte at a time, so a file may be larger than memory. If a file cannot be read and its first bytes
are those of a known format, the message names the format.
"""

import gzip
import io
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from unmask.data.text.cleaning import OTHER_BREAKS
from unmask.errors import CorpusError

__all__ = [
    "COMPRESSED",
    "compression_of",
    "decoded_blocks",
    "decoded_lines",
    "errors_named",
    "open_bytes",
    "open_seekable",
    "other_format",
    "text_lines",
    "without_break",
]

COMPRESSED = (".gz", ".zst")

_BLOCK_BYTES = 1 << 20
# a line ends where `cleaning.py` puts a line break, so that later steps see the same lines
_LINE = re.compile(f"[^\n\r{OTHER_BREAKS}]*+(?:\r\n?|[\n{OTHER_BREAKS}])|[^\n\r{OTHER_BREAKS}]++")
# first bytes of a format, its name, and what to do with such a file
_FORMATS = (
    (b"\x1f\x8b", "gzip", "give its name the suffix .gz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "give its name the suffix .zst"),
    (b"PAR1", "parquet", "give its name the suffix .parquet"),
    (b"BZh", "bzip2", "decompress it with bunzip2"),
    (b"\xfd7zXZ\0", "xz", "decompress it with unxz"),
    (b"PK\x03\x04", "zip", "unpack it and take the text out"),
    (b"%PDF-", "PDF", "take the text out first"),
    (b"\xff\xfe", "UTF-16", "convert it with iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "convert it with iconv -f UTF-16 -t UTF-8"),
)


def compression_of(path: Path) -> str:
    """Return the suffix in `COMPRESSED` that a file name ends with, in upper or lower case, or an empty string."""
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSED else ""


def other_format(head: bytes) -> str:
    """Return the clause of a message that names the format of a file by its first bytes; empty if it is unknown."""
    for begin, name, way in _FORMATS:
        if head.startswith(begin):
            return f"; by its first bytes it is {name}: {way}"
    return ""


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Turn errors of the system, gzip and zstd that come while `path` is read into a `CorpusError` that names it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _not_whole(path, "gzip", error) from None
    except OSError as error:
        # Arrow has no error of its own for this
        if compression_of(path) == ".zst" and error.errno is None:
            raise _not_whole(path, "zstd", error) from None
        raise CorpusError(
            f"corpus: {path} cannot be read ({error.strerror or error}); make it readable, or copy it again"
        ) from None


def _not_whole(path: Path, name: str, error: Exception) -> CorpusError:
    head = b""
    with suppress(OSError), path.open("rb") as stream:
        head = stream.read(8)
    begin = next(begin for begin, known, _ in _FORMATS if known == name)
    if head.startswith(begin):
        way = "; copy or compress it again"
    else:
        way = other_format(head) or f"; leave {path.suffix} out of its name, or copy or compress it again"
    return CorpusError(f"corpus: {path} is not a whole {name} file ({error}){way}")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, decompressed if its name ends in .gz or .zst."""
    compression = compression_of(path)
    if compression == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if not compression:
        return path.open("rb")
    import pyarrow as pa

    if not pa.Codec.is_available("zstd"):
        raise CorpusError(
            f"corpus: {path} needs zstd, which this build of pyarrow leaves out; install pyarrow from PyPI, which has "
            "it, or decompress the file"
        )
    return io.BufferedReader(pa.CompressedInputStream(path.open("rb"), "zstd"), _BLOCK_BYTES)


@contextmanager
def open_seekable(path: Path) -> Iterator[IO[bytes]]:
    """Open the file, or its decompressed bytes in a temporary file: parquet is read from its end."""
    with open_bytes(path) as stream:
        if not compression_of(path):
            yield stream
            return
        with tempfile.TemporaryFile() as plain:
            shutil.copyfileobj(stream, plain, _BLOCK_BYTES)
            plain.seek(0)
            yield cast("IO[bytes]", plain)


def decoded_lines(path: Path, stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    r"""Yield (number from 1, line) for lines that end with \n, \r\n or \r; `path` is for messages."""
    lines = (line for block in decoded_blocks(path, stream) for line in io.StringIO(block, newline=None))
    return enumerate(lines, start=1)


def decoded_blocks(path: Path, stream: IO[bytes]) -> Iterator[str]:
    """Yield the text of `stream` in blocks of about a megabyte, each of whole lines."""
    offset = 0
    head = b""
    for raw in _blocks(stream):
        head = head or raw[:8]
        nul = raw.find(b"\0")
        if nul >= 0:
            way = other_format(head) or "; convert it to UTF-8 if it is text, leave it out if it is none"
            raise CorpusError(f"corpus: {path} is binary: NUL at byte {offset + nul}{way}")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            inside = " of the decompressed text" if compression_of(path) else ""
            way = other_format(head) or "; convert it, for example with iconv -t UTF-8"
            raise CorpusError(
                f"corpus: {path} is not UTF-8 at byte {offset + error.start}{inside} "
                f"(0x{raw[error.start]:02x}, {error.reason}){way}"
            ) from None
        yield text.removeprefix("\ufeff") if offset == 0 else text
        offset += len(raw)


def text_lines(path: Path, stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) for lines that end with any line break that `cleaning.py` knows."""
    lines = (line for block in decoded_blocks(path, stream) for line in _LINE.findall(block))
    return enumerate(lines, start=1)


def without_break(line: str) -> str:
    """Return the line without its line break, and without the byte order mark that joined files have inside."""
    return line.rstrip(f"\n\r{OTHER_BREAKS}").removeprefix("\ufeff")


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    waiting: list[bytes] = []
    while data := stream.read(_BLOCK_BYTES):
        # a \r that is the last byte may be the first half of \r\n
        cut = max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1
        if cut:
            yield b"".join([*waiting, data[:cut]])
            waiting = []
        waiting.append(data[cut:])
    if waiting:
        yield b"".join(waiting)
