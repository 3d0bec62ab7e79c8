"""Reads raw text: a stream of `Document`s from files, directories and data sets, one at a time.

An input is a path or `name=path`. Files are those of `readers.py` (.txt, .md, .jsonl, .parquet, each also as .gz and
.zst), folders are searched for them (`listing.py`); a folder that `datasets` saved and `hf://owner/name:split` are
Hugging Face data sets (`hugging_face.py`). Each input belongs to one *source*, the unit that weights and composition
by source work on: the given name, which several inputs may share, or that of the directory or file.

Every file is UTF-8 (a byte order mark is dropped). Text is read as it is: nothing is cleaned or filtered here, a
null or empty text is an empty document. The order is the order of the inputs, inside a directory the sorted order
of the paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask.data.text.decoding import errors_named
from unmask.data.text.hugging_face import HUB, read_dataset
from unmask.data.text.listing import CorpusFile, unchanged
from unmask.data.text.readers import Cuts, ReadOptions, read_file, suffix_of
from unmask.errors import CorpusError
from unmask.folders import kind_of
from unmask.paths import expanded_input, name_and_location, printable

__all__ = ["Document", "Input", "named_inputs", "read_input"]


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
class Input:
    """One input: where it is, its source, whether the user named the source, and whether it is a data set."""

    location: str
    source: str
    named: bool
    is_dataset: bool


def named_inputs(inputs: Sequence[str | Path]) -> list[Input]:
    """Tells the source of each input.

    `name=path` names it. Otherwise it is the name of the directory or of the file without suffix; inputs whose names
    collide keep the path as it was given.

    Raises:
        CorpusError: nothing given, or an input does not exist.
    """
    if not inputs:
        raise CorpusError("corpus: inputs must name at least one file or folder, got none")
    pairs = [_name_and_location(expanded_input(str(given))) for given in inputs]
    # a file name may be no text, a source is
    own = [name or printable(_own_name(location)) for name, location in pairs]
    taken = Counter(own)
    return [
        Input(
            location=location,
            source=name or (stem if taken[stem] == 1 else printable(location)),
            named=bool(name),
            is_dataset=location.startswith(HUB) or kind_of(Path(location)) == "saved data set",
        )
        for (name, location), stem in zip(pairs, own, strict=True)
    ]


def read_input(given: Input, files: Sequence[CorpusFile], options: ReadOptions, cuts: Cuts) -> Iterator[Document]:
    """Yields the documents of one input, a data set or text in `files`.

    Raises:
        CorpusError: a file is unreadable, has changed since it was listed, is damaged, binary or not UTF-8, a JSON line
            is malformed, or the text field is absent or not text. The message names the file and the byte, line or row.
    """
    if given.is_dataset:
        for text, origin in read_dataset(given.location, options.text_field):
            yield Document(text=text, source=given.source, origin=origin)
    for file in files:
        with errors_named(file.path), unchanged(file):
            for text, origin in read_file(file.path, options, cuts):
                yield Document(text=text, source=given.source, origin=origin)


def _name_and_location(given: str) -> tuple[str, str]:
    """Name, empty where none was given, and location."""
    name, location = name_and_location(given)
    if not _exists(location):
        path = Path(location)
        what = f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "does not exist"
        # what follows the first = would do, so the name is what was not understood
        named = _exists(location.partition("=")[2])
        way = (
            "name a source with letters, digits, '.', '-' and '_' only" if named else "give a file or folder that does"
        )
        raise CorpusError(f"corpus: {location or repr(location)} {what}; {way}")
    return name, location


def _exists(location: str) -> bool:
    try:
        return location.startswith(HUB) or (bool(location) and Path(location).exists())
    except OSError:
        # a name longer than a file can have
        return False


def _own_name(location: str) -> str:
    if location.startswith(HUB):
        return location.removeprefix(HUB).partition(":")[0].partition("@")[0].rstrip("/").rpartition("/")[2]
    path = Path(location)
    suffix = suffix_of(path)
    if path.is_dir():
        return path.resolve().name or location
    return (path.name[: -len(suffix)] if suffix else "") or path.name
