"""Raw text as a stream of `Document`s, from files, folders and data sets.

An input is one of these, or `name=` before one:

    a file, a folder                      formats in `readers.py`, folders in `listing.py`
    s3://bucket/texts, gs://...           the same on other machines (`remote.py`)
    hf://datasets/owner/name/texts        the same in a repository of the hub
    'news/*/', 's3://bucket/*.jsonl'      a pattern: each path that it matches is an input, as in a shell
    a saved data set, hf://owner/name     a Hugging Face data set (`hugging_face.py`)
    docstrings:                           the embedded corpus (`docstrings.py`)

Each input has a source: the given name, else the name of the folder or file. Several inputs may share one. The embedded
corpus has its own sources unless it is given a name. Sources are what weights refer to.

Text is UTF-8 unless `ReadOptions.encoding` says otherwise, and a byte order mark is dropped. Nothing is cleaned or
filtered here; a null or empty text is an empty document. Documents come in the order of the inputs, and within a folder
in the sorted order of the paths.
"""

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from unmask.data.text.decoding import errors_named
from unmask.data.text.hugging_face import HUB, read_dataset
from unmask.data.text.listing import CorpusFile, unchanged
from unmask.data.text.options import Cuts, ReadOptions
from unmask.data.text.readers import read_file, suffix_of
from unmask.data.text.remote import is_remote, remote_matches, shown
from unmask.errors import CorpusError
from unmask.folders import kind_of
from unmask.paths import expanded_input, name_and_location, nearest_name, printable

__all__ = ["DOCSTRINGS", "Document", "Input", "named_inputs", "read_input"]

DOCSTRINGS = "docstrings:"
"""The input that is the embedded corpus."""

Kind = Literal["files", "data set", "docstrings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document of raw text.

    Attributes:
        text: the text as it stands in the file.
        source: the name of its source.
        origin: where it was read, for messages: `path`, `path:line` or `path:row 7`.
    """

    text: str
    source: str
    origin: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One input.

    Attributes:
        location: its path, `hf://...`, or another address.
        source: the name of its source.
        named: whether the user gave that name.
        kind: what it is; a token store among the inputs is of the kind `files` here.
    """

    location: str
    source: str
    named: bool
    kind: Kind


def named_inputs(inputs: str | Path | Sequence[str | Path]) -> list[Input]:
    """Find the source of each input, and put the paths that it matches in the place of a pattern.

    `name=path` gives the source. Otherwise it is the name of the folder, or of the file without its suffix. Inputs that
    would share such a name have their paths as names instead. A single str or Path is one input.

    Raises:
        CorpusError: there is no input, or one does not exist or matches nothing.
    """
    if isinstance(inputs, (str, Path)):
        inputs = [inputs] if str(inputs) else []
    if not inputs:
        raise CorpusError(
            "corpus: inputs must name at least one file or folder, got none; give text with --input, or the embedded "
            f"corpus with --input {DOCSTRINGS}"
        )
    pairs = [pair for given in inputs for pair in _names_and_locations(expanded_input(str(given)))]
    # a file name may hold bytes that are no text, a source may not
    own = [name or printable(_own_name(location)) for name, location in pairs]
    taken = Counter(own)
    return [
        Input(
            location=location,
            source=name or (stem if taken[stem] == 1 else printable(shown(location))),
            named=bool(name),
            kind=_kind(location),
        )
        for (name, location), stem in zip(pairs, own, strict=True)
    ]


def read_input(given: Input, files: Sequence[CorpusFile], options: ReadOptions, cuts: Cuts) -> Iterator[Document]:
    """Yield the documents of one input from its `files`, none for a data set; `cuts` notes where they were cut.

    Raises:
        UndecodedError: a file is not in the encoding of `options`.
        CorpusError: a file is unreadable, has changed since it was listed, is damaged or binary; a JSON line
            is malformed; or the text field is missing or no text. The message names the file and the byte, line or row.
    """
    if given.kind == "data set":
        for text, origin in read_dataset(given.location, options.fields):
            yield Document(text=text, source=given.source, origin=origin)
    for file in files:
        with errors_named(file.path), unchanged(file):
            for text, origin in read_file(file.path, options, cuts):
                yield Document(text=text, source=given.source, origin=origin)


def _kind(location: str) -> Kind:
    if location == DOCSTRINGS:
        return "docstrings"
    if not is_remote(location) and (location.startswith(HUB) or kind_of(Path(location)) == "saved data set"):
        return "data set"
    return "files"


def _names_and_locations(given: str) -> list[tuple[str, str]]:
    """Split an input into name, empty if none was given, and location; a pattern gives several."""
    name, location = name_and_location(given)
    if _exists(location):
        return [(name, location)]
    matches = _matches(location)
    if matches is None:
        raise _absent(location)
    if not matches:
        raise CorpusError(
            f"corpus: pattern {location!r} matches nothing; give one that matches files or folders (** stands for "
            "folders of any depth)"
        )
    return [(name, match) for match in matches]


def _matches(location: str) -> list[str] | None:
    """Return the sorted paths that a pattern matches; None for what is no pattern."""
    if is_remote(location):
        return remote_matches(location)
    if not glob.has_magic(location):
        return None
    # Path.glob takes no absolute pattern
    return sorted(glob.glob(location, recursive=True))  # noqa: PTH207


def _absent(location: str) -> CorpusError:
    path = Path(location)
    # the part after the first = exists, so the name was not understood
    if _exists(location.partition("=")[2]):
        return CorpusError(
            f"corpus: {location} does not exist; name a source with letters, digits, '.', '-' and '_' only"
        )
    what = f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "does not exist"
    near = nearest_name(path)
    way = "give a file or folder that does" if near is None else f"did you mean {near}?"
    return CorpusError(f"corpus: {location or repr(location)} {what}; {way}")


def _exists(location: str) -> bool:
    """Return whether an input is one thing: what is not here is looked up later, and a remote pattern is none."""
    if is_remote(location):
        return "*" not in location
    try:
        return location.startswith(HUB) or location == DOCSTRINGS or (bool(location) and Path(location).exists())
    except OSError:
        # a name longer than a file can have
        return False


def _own_name(location: str) -> str:
    if location == DOCSTRINGS:
        return location.rstrip(":")
    if is_remote(location):
        name = PurePosixPath(shown(location)).name
        suffix = suffix_of(PurePosixPath(name))
        return name[: -len(suffix)] if suffix else name
    if location.startswith(HUB):
        return location.removeprefix(HUB).partition(":")[0].partition("@")[0].rstrip("/").rpartition("/")[2]
    path = Path(location)
    suffix = suffix_of(path)
    if path.is_dir():
        return path.resolve().name or location
    return (path.name[: -len(suffix)] if suffix else "") or path.name
