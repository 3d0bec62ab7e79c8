"""Opens text files, plain, .gz or .zst, and decodes them strictly: whatever is not UTF-8 is refused by byte offset.

Offsets count from 0 in the file, in a compressed one in the decompressed bytes. Lines are decoded one at a time, so
a file may be larger than memory. Zstandard is read by pyarrow, which the store needs anyway.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from unmask.errors import CorpusError

__all__ = ["COMPRESSED", "decoded_lines", "errors_named", "open_bytes", "open_seekable"]

COMPRESSED = (".gz", ".zst")


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Turns what the system, gzip and zstd say while `path` is read into a `CorpusError` that names it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(f"corpus: {path} is not a whole gzip file ({error}); copy or compress it again") from None
    except OSError as error:
        # Arrow has no error of its own for this
        if path.suffix == ".zst" and error.errno is None:
            raise CorpusError(f"corpus: {path} is not a whole zstd file ({error}); copy or compress it again") from None
        raise CorpusError(f"corpus: {path} cannot be read ({error.strerror or error})") from None


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file for reading bytes, decompressed when its name ends in .gz or .zst."""
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return _open_zst(path) if path.suffix == ".zst" else path.open("rb")


def _open_zst(path: Path) -> IO[bytes]:
    import pyarrow as pa

    if not pa.Codec.is_available("zstd"):
        raise CorpusError(
            f"corpus: {path} needs zstd, which this build of pyarrow leaves out; install pyarrow from PyPI, which has "
            "it, or decompress the file"
        )
    return io.BufferedReader(pa.CompressedInputStream(path.open("rb"), "zstd"), 1 << 20)


@contextmanager
def open_seekable(path: Path) -> Iterator[IO[bytes]]:
    """Gives the file itself, or its decompressed bytes in a temporary file: parquet is read from its end."""
    with open_bytes(path) as stream:
        if path.suffix not in COMPRESSED:
            yield stream
            return
        with tempfile.TemporaryFile() as plain:
            shutil.copyfileobj(stream, plain, 1 << 20)
            plain.seek(0)
            yield cast("IO[bytes]", plain)


def decoded_lines(path: Path, stream: IO[bytes], chunk: int = -1) -> Iterator[tuple[int, str]]:
    """Yields the lines of `stream`, decoded, with their number from 1.

    Args:
        path: the name for messages.
        stream: the bytes.
        chunk: above 0, yields blocks of about that many bytes, each ending with a line, instead of lines.
    """
    offset = 0
    for number in range(1, 1 << 62):
        raw = stream.readline() if chunk < 0 else stream.read(chunk) + stream.readline()
        if not raw:
            return
        nul = raw.find(b"\0")
        if nul >= 0:
            raise CorpusError(
                f"corpus: {path} is binary: NUL at byte {offset + nul}; text must be UTF-8, UTF-16 has to be converted"
            )
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            inside = " of the decompressed text" if path.suffix in COMPRESSED else ""
            raise CorpusError(
                f"corpus: {path} is not UTF-8 at byte {offset + error.start}{inside} "
                f"(0x{raw[error.start]:02x}, {error.reason}); convert it, for example with iconv -t UTF-8"
            ) from None
        yield number, line.removeprefix("\ufeff") if offset == 0 else line
        offset += len(raw)
