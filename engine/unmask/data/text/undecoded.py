"""Files in another encoding: all that cannot be decoded in one message, with the options that read them.

Bytes do not tell their encoding, so nothing is guessed: the message shows what the bytes read in each encoding that
decodes the files, and the user knows which one is text.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from unmask.data.text import decoding
from unmask.data.text.decoding import UndecodedError
from unmask.data.text.options import ReadOptions
from unmask.data.text.remote import FilePath
from unmask.errors import CorpusError
from unmask.paths import as_typed, printable

__all__ = ["all_undecoded", "converted", "probably_utf8"]

# encodings to try, with the names that iconv knows
_TRIED = {
    "utf-8": "UTF-8",
    "gb18030": "GB18030",
    "big5": "BIG5",
    "shift_jis": "SHIFT_JIS",
    "euc_kr": "EUC-KR",
    "latin-1": "ISO-8859-1",
    "cp1252": "CP1252",
}
# control characters, which Latin-1 has where Windows has letters and quotes
_CONTROLS = re.compile("[\x80-\x9f]")
_NOT_ASCII = re.compile(rb"[\x80-\xff][^\n]{,63}")
# a file that is damaged otherwise gets an error of its own when it is read
_DAMAGES = (CorpusError, OSError, EOFError, zlib.error)
_TRIED_BYTES = 1 << 23
_TRIED_FILES = 20
_LOOKED_FILES = 1000
_NAMED = 5
_LOOKED_BYTES = 1 << 30
_SAMPLE = 16
_HEAD = 1 << 16


def all_undecoded(first: UndecodedError, files: Sequence[FilePath], options: ReadOptions) -> CorpusError:
    """Return one error for all files that cannot be decoded.

    Args:
        first: the first of them.
        files: all files of text; those after the first are looked at, up to a gigabyte.
        options: how they are read.
    """
    known = decoding.other_format(first.head, first.path)
    found, missed = _failures(first, files, options.encoding)
    name = options.encoding.upper()
    if len(found) == 1 and not missed:
        way = known or f"; {_way(found, files, options.encoding, as_typed(first.path))}"
        return CorpusError(f"corpus: {first.path} is not {name} {first.place}{way}")
    ways = _way(found, files, options.encoding, "FILE")
    left = "1 file was" if missed == 1 else f"{missed:,} files were"
    rest = f"; {left} not looked at" if missed else ""
    listed = "".join(f"\n  {printable(str(one.path))} {one.place}" for one in found)
    return CorpusError(f"corpus: {len(found):,} of {len(files):,} files of text are not {name}{rest}; {ways}{listed}")


def probably_utf8(files: Sequence[FilePath]) -> list[FilePath]:
    """Return the files whose first bytes are UTF-8 and not ASCII: almost no text in another encoding is."""
    found = []
    for path in files:
        with suppress(*_DAMAGES), decoding.open_bytes(path) as stream:
            head = stream.read(_HEAD)
            # the last character may be cut
            if not head.isascii() and _decodes(head, "utf-8", final=False):
                found.append(path)
    return found


def converted(path: Path, error: UnicodeDecodeError) -> str:
    """Return the command that makes UTF-8 of a file, with what it then reads; empty if no known encoding decodes it."""
    typed = as_typed(path)
    with path.open("rb") as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return f"convert it: iconv -f UTF-16 -t UTF-8 {typed} > utf8 && mv utf8 {typed}"
    near = error.object[error.object.rfind(b"\n", 0, error.start) + 1 : error.start + 2 * _SAMPLE]
    for name, known in _TRIED.items():
        sample = _sample(near, name)
        if sample and _reads(path, name):
            command = f"iconv -f {known} -t UTF-8 {typed} > utf8 && mv utf8 {typed}"
            return f"if {sample!r} is text of it, convert it: {command}"
    return ""


def _failures(first: UndecodedError, files: Sequence[FilePath], encoding: str) -> tuple[list[UndecodedError], int]:
    """Return the errors of the first file and those after it, and the number of files not looked at."""
    found = [first]
    left = _LOOKED_BYTES
    rest = list(files)[list(files).index(first.path) + 1 :] if first.path in files else []
    for number, path in enumerate(rest):
        if left <= 0:
            return found, len(rest) - number
        with suppress(*_DAMAGES), decoding.open_bytes(path) as stream:
            try:
                for block in decoding.decoded_blocks(path, stream, encoding):
                    left -= len(block)
            except UndecodedError as error:
                found.append(error)
    return found, 0


def _way(found: Sequence[UndecodedError], files: Sequence[FilePath], encoding: str, file: str) -> str:
    """Return what reads the files: the encodings that decode all of them, each with what the first bytes become."""
    paths = [one.path for one in found[:_TRIED_FILES]]
    shown = {name: _shown(found[0], name) for name in _TRIED if codecs.lookup(name) != codecs.lookup(encoding)}
    names = [name for name, sample in shown.items() if sample and all(_reads(path, name) for path in paths)]
    if "latin-1" in names and "cp1252" in names:
        names.remove("cp1252")
    if not names:
        return (
            "give their encoding with --encoding (data.encoding of a run), for example utf-16 or cp1251; leave out "
            "what is no text"
        )
    if names[0] == "utf-8":
        return _way_to_utf8({one.path for one in found}, files, encoding, shown["utf-8"])
    options = ", ".join(f"--encoding {name} reads {shown[name]!r}" for name in names)
    return (
        f"of the bytes there, {options}; give the right one (data.encoding of a run), or if other files have another "
        f"encoding, convert: iconv -f {_TRIED[names[0]]} -t UTF-8 {file} > utf8 && mv utf8 {file}"
    )


def _way_to_utf8(found: Collection[FilePath], files: Sequence[FilePath], encoding: str, sample: str) -> str:
    """Return what reads files that are UTF-8, among others that are text in the given encoding."""
    way = f"as UTF-8 the bytes there read {sample!r}; leave --encoding (data.encoding of a run) out"
    others = [path for path in islice(files, _LOOKED_FILES) if path not in found and not _reads(path, "utf-8")]
    if not others:
        return way
    known = {codecs.lookup(name): iconv for name, iconv in _TRIED.items()}
    name = known.get(codecs.lookup(encoding), encoding.upper().replace("_", "-"))
    names, file = "", as_typed(others[0])
    if len(others) > 1:
        more = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
        names, file = f" {', '.join(printable(str(path)) for path in others[:_NAMED])}{more}", "FILE"
    return f"{way}, and convert what is not UTF-8{names}: iconv -f {name} -t UTF-8 {file} > utf8 && mv utf8 {file}"


def _shown(first: UndecodedError, encoding: str) -> str:
    """Return what the bytes there read; empty if that is no text or ASCII alone."""
    sample = _sample(first.near, encoding)
    if sample or encoding != "utf-8":
        return sample
    # the byte may lie inside a character of UTF-8
    with decoding.open_bytes(first.path) as stream:
        found = _NOT_ASCII.search(stream.read(_TRIED_BYTES))
    return _sample(found[0], encoding) if found else ""


def _sample(near: bytes, encoding: str) -> str:
    # a byte order mark is no text
    text = " ".join(near.decode(encoding, "ignore").replace("\ufeff", "").split())[:_SAMPLE]
    return text if text.isprintable() and not text.isascii() else ""


def _reads(path: FilePath, encoding: str) -> bool:
    with decoding.open_bytes(path) as stream:
        return _decodes(stream.read(_TRIED_BYTES), encoding, final=False)


def _decodes(data: bytes, encoding: str, *, final: bool) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data, final=final)
    except UnicodeDecodeError:
        return False
    return encoding != "latin-1" or not _CONTROLS.search(text)
