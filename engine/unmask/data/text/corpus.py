"""Raw text as a stream of `Document`s, from files, folders and data sets.

An input is a path or `name=path`:

    a file                                one of `readers.py`: .txt, .md, .jsonl, .parquet, each also .gz or .zst
    a folder                              searched for such files (`listing.py`)
    a saved data set, hf://owner/name     a Hugging Face data set (`hugging_face.py`)

Each input has a source: the given name, else the name of the folder or file. Several inputs may share one. Sources are
what weights refer to.

Text is UTF-8, and a byte order mark is dropped. Nothing is cleaned or filtered here; a null or empty text is an empty
document. Documents come in the order of the inputs, and within a folder in the sorted order of the paths.
"""

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
        location: its path, or `hf://...`.
        source: the name of its source.
        named: whether the user gave that name.
        is_dataset: whether it is a Hugging Face data set.
    """

    location: str
    source: str
    named: bool
    is_dataset: bool


def named_inputs(inputs: Sequence[str | Path]) -> list[Input]:
    """Find the source of each input.

    `name=path` gives it. Otherwise it is the name of the folder, or of the file without its suffix. Inputs that would
    share such a name have their paths as names instead.

    Raises:
        CorpusError: there is no input, or one does not exist.
    """
    if not inputs:
        raise CorpusError("corpus: inputs must name at least one file or folder, got none")
    pairs = [_name_and_location(expanded_input(str(given))) for given in inputs]
    # a file name may hold bytes that are no text, a source may not
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
    """Yield the documents of one input from its `files`, none for a data set; `cuts` notes where they were cut.

    Raises:
        CorpusError: a file is unreadable, has changed since it was listed, is damaged, binary or not UTF-8; a JSON line
            is malformed; or the text field is missing or no text. The message names the file and the byte, line or row.
    """
    if given.is_dataset:
        for text, origin in read_dataset(given.location, options.text_field):
            yield Document(text=text, source=given.source, origin=origin)
    for file in files:
        with errors_named(file.path), unchanged(file):
            for text, origin in read_file(file.path, options, cuts):
                yield Document(text=text, source=given.source, origin=origin)


def _name_and_location(given: str) -> tuple[str, str]:
    """Split an input into name, empty if none was given, and location, which must exist."""
    name, location = name_and_location(given)
    if not _exists(location):
        path = Path(location)
        what = f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "does not exist"
        # the part after the first = exists, so the name was not understood
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
