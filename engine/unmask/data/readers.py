"""Reads one file of documents: what a document is in each form, and what is refused, by line or row.

    .txt .md       a document per file, per block between blank lines, or per heading
    .jsonl         a document per line, its text in one field
    .parquet       a document per row, its text in one column
    dataset        a document per row of a Hugging Face dataset (`hugging_face.py`)

A document per heading begins at every line that a regular expression finds; headings that follow one another with
nothing between them open one document together, so a title does not stand alone. `.jsonl` and `.parquet` are
streamed, of a `.txt` or `.md` one document at a time is in memory.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.data.text_files import COMPRESSED, decoded_lines, open_bytes, open_seekable
from unmask.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SUFFIXES", "ReadOptions", "missing_field", "read_file", "suffix_of"]

_FORMS = (".txt", ".md", ".jsonl", ".parquet")
SUFFIXES = tuple(form + compressed for compressed in ("", *COMPRESSED) for form in _FORMS)

_PARQUET_ROWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """Where the documents of a file begin, and where their text is.

    Args:
        text_field: field of a JSON line or column of a table that holds the text.
        blank_line_documents: a `.txt` or `.md` is a document per block between blank lines.
        split_at: regular expression; a `.txt` or `.md` is a document per line in which it is found.

    Raises:
        CorpusError: `split_at` is no regular expression, or both ways of cutting were asked for.
    """

    text_field: str = "text"
    blank_line_documents: bool = False
    split_at: str | None = None

    def __post_init__(self) -> None:
        if self.split_at is None:
            return
        if self.blank_line_documents:
            raise CorpusError("corpus: documents begin at blank lines or at split_at, not at both; leave one out")
        try:
            re.compile(self.split_at)
        except re.error as error:
            raise CorpusError(f"corpus: split_at {self.split_at!r} is no regular expression ({error})") from None


def read_file(path: Path, options: ReadOptions) -> Iterator[tuple[str, str]]:
    """Yields the text of each document of a file with one of `SUFFIXES`, and where it is, as `Document.origin`."""
    suffix = suffix_of(path)
    assert suffix is not None
    if suffix.startswith(".parquet"):
        return _read_parquet(path, options.text_field)
    if suffix.startswith(".jsonl"):
        return _read_jsonl(path, options.text_field)
    if options.split_at is not None:
        return _read_sections(path, re.compile(options.split_at))
    return _read_blocks(path) if options.blank_line_documents else _read_whole(path)


def suffix_of(path: Path) -> str | None:
    """Returns which of `SUFFIXES` a file has."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def missing_field(origin: str, text_field: str, fields: Iterable[str]) -> str:
    """Returns the message that a record without `text_field` deserves, with the nearest name it has."""
    names = [str(name) for name in fields]
    nearest = difflib.get_close_matches(text_field, names, n=1, cutoff=0.5)
    hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
    return (
        f"corpus: {origin} has no field {text_field!r}, its fields are {', '.join(names) or '(none)'}{hint}; name the "
        "one that holds the text with `unmask prepare --text-field`, or data.text_field of a run"
    )


def _read_whole(path: Path) -> Iterator[tuple[str, str]]:
    with open_bytes(path) as stream:
        text = "".join(line for _, line in decoded_lines(path, stream, chunk=1 << 20))
    yield text, str(path)


def _read_blocks(path: Path) -> Iterator[tuple[str, str]]:
    block: list[str] = []
    first = 0
    with open_bytes(path) as stream:
        for number, line in decoded_lines(path, stream):
            if line.strip():
                first = first if block else number
                block.append(line)
            elif block:
                yield "".join(block), f"{path}:{first}"
                block = []
    if block:
        yield "".join(block), f"{path}:{first}"


def _read_sections(path: Path, heading: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    section: list[str] = []
    first = 1
    has_text = False
    with open_bytes(path) as stream:
        for number, line in decoded_lines(path, stream):
            if not heading.search(line):
                has_text = has_text or not line.isspace()
            elif has_text:
                yield "".join(section), f"{path}:{first}"
                section, first, has_text = [], number, False
            section.append(line)
    if section:
        yield "".join(section), f"{path}:{first}"


def _read_jsonl(path: Path, text_field: str) -> Iterator[tuple[str, str]]:
    with open_bytes(path) as stream:
        for number, line in decoded_lines(path, stream):
            if not line.strip():
                continue
            origin = f"{path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                detail = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                raise CorpusError(
                    f"corpus: {origin} is not valid JSON ({detail}); .jsonl holds one object a line"
                ) from None
            if not isinstance(row, dict):
                raise CorpusError(f"corpus: {origin} must be a JSON object, got {_json_type(row)}")
            if text_field not in row:
                raise CorpusError(missing_field(origin, text_field, row))
            text = "" if row[text_field] is None else row[text_field]
            if not isinstance(text, str):
                raise CorpusError(f"corpus: {origin}: field {text_field!r} must be a string, got {_json_type(text)}")
            if "\\ud" in line or "\\uD" in line:
                _refuse_surrogates(text, origin)
            yield text, origin


def _read_parquet(path: Path, text_field: str) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_seekable(path) as stream:
        try:
            table = pq.ParquetFile(stream)
            _check_column(table.schema_arrow, path, text_field)
            row = 0
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[text_field]):
                column = batch.column(0)
                for index in range(len(column)):
                    origin = f"{path}:row {row}"
                    row += 1
                    try:
                        text = column[index].as_py()
                    except UnicodeDecodeError as error:
                        raise CorpusError(
                            f"corpus: {origin} is not UTF-8 at byte {error.start} of the text "
                            f"({error.reason}); convert the column first"
                        ) from None
                    yield text or "", origin
        except pa.ArrowException as error:
            raise CorpusError(f"corpus: {path} cannot be read as parquet ({error})") from None


def _check_column(schema: pa.Schema, path: Path, text_field: str) -> None:
    import pyarrow as pa

    if text_field not in schema.names:
        raise CorpusError(missing_field(str(path), text_field, schema.names))
    kind = schema.field(text_field).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
        raise CorpusError(f"corpus: {path}: column {text_field!r} must hold strings, it holds {kind}")


def _refuse_surrogates(text: str, origin: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"corpus: {origin} holds half a surrogate pair ({text[error.start]!r}) at character "
            f"{error.start}, which is no Unicode text; write the whole pair"
        ) from None


def _json_type(value: Any) -> str:
    kinds = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), "null")
