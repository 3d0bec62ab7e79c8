"""Opening and decoding text files: plain, .gz or .zst, strictly in one encoding, UTF-8 unless another is given.

A byte that is no text in the encoding is refused with its offset from 0, in a compressed file that of the decompressed
bytes. Text is decoded about a megabyte at a time, so a file may be larger than memory. If a file cannot be read and its
first bytes are those of a known format, the message names the format.
"""

import codecs
import difflib
import gzip
import io
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from unmask.data.text.cleaning import OTHER_BREAKS
from unmask.data.text.remote import FilePath
from unmask.errors import CorpusError
from unmask.paths import as_typed

__all__ = [
    "COMPRESSED",
    "UndecodedError",
    "check_encoding",
    "compression_of",
    "decoded_blocks",
    "decoded_lines",
    "errors_named",
    "kept_lines",
    "open_bytes",
    "open_seekable",
    "other_format",
    "text_lines",
    "without_break",
]

COMPRESSED = (".gz", ".zst")

_BLOCK_BYTES = 1 << 20
# bytes to show around one that is no text
_NEAR = 24
# a line ends where `cleaning.py` puts a line break, so that later steps see the same lines
_LINE = re.compile(f"[^\n\r{OTHER_BREAKS}]*+(?:\r\n?|[\n{OTHER_BREAKS}])|[^\n\r{OTHER_BREAKS}]++")
# first bytes of a format, its name, what to do with such a file, and the command for it
_FILE_FORMATS = (
    (b"\x1f\x8b", "gzip", "give its name the suffix .gz", "mv {typed} {gz}"),
    (b"\x28\xb5\x2f\xfd", "zstd", "give its name the suffix .zst", "mv {typed} {zst}"),
    (b"PAR1", "parquet", "give its name the suffix .parquet", "mv {typed} {parquet}"),
    (b"BZh", "bzip2", "decompress it", "mv {typed} {bz2} && bunzip2 {bz2}"),
    (b"\xfd7zXZ\0", "xz", "decompress it", "mv {typed} {xz} && unxz {xz}"),
    (b"PK\x03\x04", "zip", "unpack it", "mv {typed} {zip} && python -m zipfile -e {zip} {bare}"),
    (b"%PDF-", "PDF", "take the text out", "mv {typed} {pdf} && pdftotext {pdf} {txt}"),
)
_FORMATS = (
    *_FILE_FORMATS,
    (b"\xff\xfe", "UTF-16", "read it with --encoding utf-16 (data.encoding of a run)", ""),
    (b"\xfe\xff", "UTF-16", "read it with --encoding utf-16 (data.encoding of a run)", ""),
)
_PROGRAMS = {".gz": "gzip", ".zst": "zstd"}


class UndecodedError(CorpusError):
    """A file whose bytes are no text in the encoding in which it is read.

    Attributes:
        path: the file.
        place: which byte it is and what is wrong with it, for messages.
        near: bytes around it.
        head: the first bytes of the file.
    """

    def __init__(self, message: str, *, path: FilePath, place: str, near: bytes, head: bytes) -> None:
        super().__init__(message)
        self.path, self.place, self.near, self.head = path, place, near, head


def compression_of(path: FilePath) -> str:
    """Return the suffix in `COMPRESSED` that a file name ends with, in upper or lower case, or an empty string."""
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSED else ""


def other_format(head: bytes, path: FilePath) -> str:
    """Return the clause of a message that names the format of a file by its first bytes; empty if it is unknown.

    Args:
        head: the first bytes, decompressed if the name of the file says that it is compressed.
        path: the file.
    """
    packed = compression_of(path)
    for begin, name, *_ in _FILE_FORMATS if packed else ():
        if head.startswith(begin):
            unpack = f"{_PROGRAMS[packed]} -d {as_typed(path)}"
            return f"; inside it is {name} by its first bytes: {unpack}, and give the file that it makes"
    return _by_its_first_bytes(head, path, _FORMATS)


def _by_its_first_bytes(head: bytes, path: FilePath, formats: Iterable[tuple[bytes, str, str, str]]) -> str:
    """Return the clause for the first bytes of the file itself, whatever its name says."""
    for begin, name, way, command in formats:
        if not head.startswith(begin):
            continue
        bare = str(path).removesuffix(path.suffix)
        whole = bare if compression_of(path) else str(path)
        names = {suffix: as_typed(f"{bare}.{suffix}") for suffix in ("pdf", "txt", "zip", "parquet")}
        names |= {suffix: as_typed(f"{whole}.{suffix}") for suffix in ("gz", "zst", "bz2", "xz")}
        typed = command.format(typed=as_typed(path), bare=as_typed(bare), **names)
        # a command needs the file here
        return f"; by its first bytes it is {name}: {way}" + (f": {typed}" if typed and isinstance(path, Path) else "")
    return ""


@contextmanager
def errors_named(path: FilePath) -> Iterator[None]:
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


def _not_whole(path: FilePath, name: str, error: Exception) -> CorpusError:
    head = b""
    with suppress(OSError), path.open("rb") as stream:
        head = stream.read(8)
    begin = next(begin for begin, known, *_ in _FILE_FORMATS if known == name)
    if head.startswith(begin):
        way = "; copy or compress it again"
    else:
        # text in UTF-16 is read under a name that says nothing else
        way = _by_its_first_bytes(head, path, _FILE_FORMATS) or (
            f"; leave {path.suffix} out of its name, or copy or compress it again"
        )
    return CorpusError(f"corpus: {path} is not a whole {name} file ({error}){way}")


def open_bytes(path: FilePath) -> IO[bytes]:
    """Open a file for reading bytes, decompressed if its name ends in .gz or .zst."""
    compression = compression_of(path)
    if compression == ".gz":
        return cast("IO[bytes]", gzip.open(path if isinstance(path, Path) else path.open(), "rb"))
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
def open_seekable(path: FilePath) -> Iterator[IO[bytes]]:
    """Open the file, or its decompressed bytes in a temporary file: parquet is read from its end."""
    with open_bytes(path) as stream:
        if not compression_of(path):
            yield stream
            return
        with tempfile.TemporaryFile() as plain:
            shutil.copyfileobj(stream, plain, _BLOCK_BYTES)
            plain.seek(0)
            yield cast("IO[bytes]", plain)


def decoded_lines(path: FilePath, stream: IO[bytes], encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    r"""Yield (number from 1, line) for lines that end with \n, \r\n or \r; `path` is for messages."""
    lines = (line for block in decoded_blocks(path, stream, encoding) for line in io.StringIO(block, newline=None))
    return enumerate(lines, start=1)


def kept_lines(path: FilePath, stream: IO[bytes], encoding: str = "utf-8") -> Iterator[str]:
    """Yield the same lines, each with the line break that the file has."""
    return (line for block in decoded_blocks(path, stream, encoding) for line in io.StringIO(block, newline=""))


def decoded_blocks(path: FilePath, stream: IO[bytes], encoding: str = "utf-8") -> Iterator[str]:
    """Yield the text of `stream` in blocks of about a megabyte, each of whole lines.

    Raises:
        UndecodedError: bytes are no text in this encoding.
        CorpusError: the file is binary.
    """
    blocks = _whole_lines(_decoded(path, stream, encoding))
    for block in blocks:
        yield block.removeprefix("\ufeff")
        break
    yield from blocks


def text_lines(blocks: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) for lines of blocks that end with any line break that `cleaning.py` knows."""
    return enumerate((line for block in blocks for line in _LINE.findall(block)), start=1)


def without_break(line: str) -> str:
    """Return the line without its line break, and without the byte order mark that joined files have inside."""
    return line.rstrip(f"\n\r{OTHER_BREAKS}").removeprefix("\ufeff")


def check_encoding(encoding: str) -> None:
    """Check that Python knows this encoding of text.

    Raises:
        CorpusError: it does not.
    """
    if _is_encoding(encoding):
        return
    from encodings.aliases import aliases

    known = [name for name in {*aliases, *aliases.values()} if _is_encoding(name)]
    nearest = difflib.get_close_matches(encoding.lower().replace("-", "_"), sorted(known), n=1)
    hint = nearest[0].replace("_", "-") if nearest else "latin-1, gb18030 or utf-16"
    raise CorpusError(f"corpus: Python knows no encoding of text called {encoding!r}; give {hint}")


def _is_encoding(name: str) -> bool:
    """Return whether this is an encoding of text, as base64 is not; only its use tells."""
    try:
        "a".encode(name)
        b"".decode(name)
    except (LookupError, ValueError):
        return False
    return True


def _decoded(path: FilePath, stream: IO[bytes], encoding: str) -> Iterator[str]:
    check_encoding(encoding)
    decoder = codecs.getincrementaldecoder(encoding)()
    # in UTF-16 each letter has a zero byte
    is_wide = b"\0" in "a".encode(encoding)
    offset = 0
    head = b""
    data = b"\n"
    while data:
        data = stream.read(_BLOCK_BYTES)
        head = head or data[:8]
        nul = -1 if is_wide else data.find(b"\0")
        if nul >= 0:
            way = other_format(head, path) or (
                "; give the encoding of a text, such as --encoding utf-16-le (data.encoding of a run), or leave it "
                "out if it is no text"
            )
            raise CorpusError(f"corpus: {path} is binary: NUL at byte {offset + nul}{way}")
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _undecoded(path, encoding, error, offset - waiting, head) from None
        except UnicodeError as error:
            # UTF-16 and UTF-32 without a byte order mark
            raise CorpusError(
                f"corpus: {path} is not {encoding.upper()} ({error}); give the encoding with its byte order, such as "
                "--encoding utf-16-le (data.encoding of a run)"
            ) from None
        if text:
            yield text
        offset += len(data)


def _undecoded(path: FilePath, encoding: str, error: UnicodeDecodeError, offset: int, head: bytes) -> UndecodedError:
    data, start = error.object, error.start
    inside = " of the decompressed text" if compression_of(path) else ""
    wrong = f"0x{data[start]:02x}, {error.reason}" if start < len(data) else error.reason
    place = f"at byte {offset + start}{inside} ({wrong})"
    # from the start of the line, or from the byte itself, where a character begins
    begin = data.rfind(b"\n", 0, start) + 1
    begin = begin if start - begin <= _NEAR else start
    return UndecodedError(
        f"corpus: {path} is not {encoding.upper()} {place}; give its encoding with --encoding (data.encoding of a "
        "run), or leave it out if it is no text",
        path=path,
        place=place,
        near=bytes(data[begin : start + _NEAR]),
        head=head,
    )


def _whole_lines(blocks: Iterator[str]) -> Iterator[str]:
    waiting: list[str] = []
    for text in blocks:
        # a \r that is the last character may be the first half of \r\n
        cut = max(text.rfind("\n"), text.rfind("\r", 0, -1)) + 1
        if cut:
            yield "".join([*waiting, text[:cut]])
            waiting = []
        waiting.append(text[cut:])
    if waiting:
        yield "".join(waiting)
