"""Reads raw text: a stream of `Document`s from files, directories and data sets, one at a time.

An input is a path or `name=path`. Files are those of `readers.py` (.txt, .md, .jsonl, .parquet, each also as .gz and
.zst), directories are searched for them in depth; a folder that `datasets` saved and `hf://owner/name:split` are
Hugging Face data sets (`hugging_face.py`). Each input belongs to one *source*, the unit that weights and composition
by source work on: the given name, which several inputs may share, or that of the directory or file.

Every file is UTF-8 (a byte order mark is dropped). Text is read as it is: nothing is cleaned or filtered here, a
null or empty text is an empty document. The order is the order of the inputs, inside a directory the sorted order
of the paths.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask.data.hugging_face import HUB, is_saved_dataset, read_dataset
from unmask.data.readers import SUFFIXES, ReadOptions, read_file, suffix_of
from unmask.data.text_files import errors_named
from unmask.errors import CorpusError
from unmask.paths import expanded_input, printable

__all__ = ["CorpusFile", "Document", "Input", "corpus_files", "named_inputs", "read_input"]

_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document of raw text.

    Args:
        text: the text as it stands in the file.
        source: the source that it belongs to.
        origin: where exactly, for messages: `path`, `path:line` or `path:row 7`.
    """

    text: str
    source: str
    origin: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusFile:
    """One file to read, the source that it belongs to and its size on disk in bytes."""

    path: Path
    source: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One input: where it is, its source, and whether the source was named by the user."""

    location: str
    source: str
    named: bool

    @property
    def is_dataset(self) -> bool:
        """Whether `hugging_face.py` reads it."""
        return self.location.startswith(HUB) or is_saved_dataset(Path(self.location))


def named_inputs(inputs: Sequence[str | Path]) -> list[Input]:
    """Tells the source of each input.

    `name=path` names it. Otherwise it is the name of the directory or of the file without suffix; inputs whose names
    collide keep the path as it was given.

    Raises:
        CorpusError: nothing given, or an input does not exist.
    """
    if not inputs:
        raise CorpusError("corpus: at least one file or directory is needed, got none")
    pairs = [_name_and_location(expanded_input(str(given))) for given in inputs]
    # a file name may be no text, a source is
    own = [name or printable(_own_name(location)) for name, location in pairs]
    taken = Counter(own)
    return [
        Input(location=location, source=name or (stem if taken[stem] == 1 else printable(location)), named=bool(name))
        for (name, location), stem in zip(pairs, own, strict=True)
    ]


def corpus_files(inputs: Sequence[str | Path]) -> list[CorpusFile]:
    """Lists the files that the inputs name: files as they are, directories searched in depth for `SUFFIXES`.

    Hidden files and folders inside a directory are left out, and so are data sets.

    Raises:
        CorpusError: see `named_inputs`; an input is unreadable, has a suffix not in `SUFFIXES`, or holds no such file.
    """
    return [file for given in named_inputs(inputs) for file in _files(given)]


def read_input(given: Input, options: ReadOptions) -> Iterator[Document]:
    """Yields the documents of one input.

    Raises:
        CorpusError: see `corpus_files` and `ReadOptions`; a file is unreadable, damaged, binary or not UTF-8, a JSON
            line is malformed, or the text field is absent or not text. The message names the file and the byte, line
            or row.
    """
    if given.is_dataset:
        for text, origin in read_dataset(given.location, options.text_field):
            yield Document(text=text, source=given.source, origin=origin)
        return
    for file in _files(given):
        with errors_named(file.path):
            for text, origin in read_file(file.path, options):
                yield Document(text=text, source=file.source, origin=origin)


def _name_and_location(given: str) -> tuple[str, str]:
    """Name, empty where none was given, and location."""
    name, equals, location = given.partition("=")
    if equals and _NAME.fullmatch(name) and not Path(given).exists():
        given = location
    else:
        name = ""
    if not given.startswith(HUB) and not Path(given).exists():
        raise CorpusError(f"corpus: {given or repr(given)} does not exist")
    return name, given


def _own_name(location: str) -> str:
    if location.startswith(HUB):
        return location.removeprefix(HUB).partition(":")[0].partition("@")[0].rstrip("/").rpartition("/")[2]
    path = Path(location)
    suffix = suffix_of(path)
    if path.is_dir():
        return path.resolve().name
    return path.name[: -len(suffix)] if suffix else path.name


def _files(given: Input) -> list[CorpusFile]:
    if given.is_dataset:
        return []
    path = Path(given.location)
    if path.is_dir():
        return [_file(found, given.source) for found in _search(path)]
    if suffix_of(path) is None:
        suffix = path.suffix or "(none)"
        raise CorpusError(f"corpus: {path} has the suffix {suffix}; files read are {', '.join(SUFFIXES)}")
    return [_file(path, given.source)]


def _search(folder: Path) -> list[Path]:
    found: list[Path] = []
    with errors_named(folder):
        for here, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found.extend(Path(here, name) for name in names if not name.startswith(".") and suffix_of(Path(name)))
    if not found:
        raise CorpusError(f"corpus: {folder} holds no file to read; files read are {', '.join(SUFFIXES)}")
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _file(path: Path, source: str) -> CorpusFile:
    with errors_named(path):
        return CorpusFile(path=path, source=source, bytes=path.stat().st_size)
