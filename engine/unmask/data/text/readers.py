"""The formats of text files: a suffix, what reads it, and which options apply.

Each reader yields (text, origin) for every document of a file, and refuses what is damaged, with its line or row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath

from unmask.data.text import conll, decoding, json_text, parquet, plain, separated
from unmask.data.text.options import Cuts, ReadOptions
from unmask.data.text.remote import FilePath

__all__ = ["FORMATS", "SUFFIXES", "Format", "format_of", "read_file", "suffix_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A format.

    Attributes:
        read: its reader.
        text_field: whether `text_field` applies.
        split_at: whether `split_at` applies.
        blank_lines: whether `blank_line_documents` applies.
        encoding: whether `encoding` applies.
        delimiter: whether `delimiter` applies.
    """

    read: Callable[[FilePath, ReadOptions, Cuts], Iterator[tuple[str, str]]]
    text_field: bool = True
    split_at: bool = False
    blank_lines: bool = False
    encoding: bool = True
    delimiter: bool = False


_TEXT = Format(read=plain.read_plain, text_field=False, split_at=True, blank_lines=True)
_LINES = Format(read=json_text.read_json_lines)

FORMATS = {
    ".txt": _TEXT,
    ".md": _TEXT,
    ".jsonl": _LINES,
    ".ndjson": _LINES,
    ".jsonlines": _LINES,
    ".json": Format(read=json_text.read_json),
    ".csv": Format(read=separated.read_csv, delimiter=True),
    ".tsv": Format(read=separated.read_tsv, delimiter=True),
    ".conll": Format(read=conll.read_conll, blank_lines=True),
    ".conllu": Format(read=conll.read_conllu, blank_lines=True),
    ".parquet": Format(read=parquet.read_parquet, encoding=False),
}
"""The formats by their suffixes; each may be compressed too (`decoding.py`)."""

SUFFIXES = tuple(suffix + compressed for compressed in ("", *decoding.COMPRESSED) for suffix in FORMATS)


def read_file(path: FilePath, options: ReadOptions, cuts: Cuts) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each document of a file with one of `SUFFIXES`."""
    return format_of(path).read(path, options, cuts)


def format_of(path: FilePath) -> Format:
    """Return the format of a file with one of `SUFFIXES`."""
    suffix = suffix_of(path)
    assert suffix is not None
    return FORMATS[suffix.removesuffix(decoding.compression_of(path))]


def suffix_of(path: FilePath | PurePath) -> str | None:
    """Return the suffix in `SUFFIXES` that a file has, or None."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
