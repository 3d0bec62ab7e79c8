"""Reading one file: what a document is in each form, and what is refused, with its line or row.

    .txt .md       the file is a document; or each block between blank lines, or each part from a heading to the next
    .jsonl         a line is a document, its text in one field
    .parquet       a row is a document, its text in one column

A heading is a line in which a regular expression is found. Headings with nothing between them open one document
together, so that no title stands alone. `.jsonl` and `.parquet` are streamed; of a `.txt` or `.md` one document at a
time is in memory.

JSON lines: Python's reader and the standard differ, and only the text field matters. Other fields may hold a number of
any length, NaN or Infinity. The text field must come once in a line and hold a string or null. JSON does not say which
of two values is valid, so a second one is refused. A line ends with LF, CR LF or CR, which no string may contain.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.data.text import decoding
from unmask.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SUFFIXES", "Cuts", "ReadOptions", "missing_field", "read_file", "suffix_of"]

_FORMS = (".txt", ".md", ".jsonl", ".parquet")
SUFFIXES = tuple(form + compressed for compressed in ("", *decoding.COMPRESSED) for form in _FORMS)

_PARQUET_ROWS = 1024
# Python refuses whole numbers of more than 4,300 digits; a float is quick to read and becomes infinite
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float)
_JSON_TYPES = {tuple: "an object", list: "an array", str: "a string", bool: "a boolean", float: "a number"}
# a file of this many lines, all of them headings, is a list; fewer may be a title and a subtitle
_LIST = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """Where the documents of a file begin, and which field holds the text.

    Attributes:
        text_field: field of a JSON line, or column of a table, that holds the text.
        blank_line_documents: whether each block between blank lines of a `.txt` or `.md` is a document.
        split_at: regular expression; a document of a `.txt` or `.md` begins at each line in which it is found. It is
            tried on the line without its line break.

    Raises:
        CorpusError: `split_at` is no regular expression, or `blank_line_documents` is set too.
    """

    text_field: str = "text"
    blank_line_documents: bool = False
    split_at: str | None = None

    @property
    def cuts_text(self) -> bool:
        """Whether a text file may be several documents."""
        return self.blank_line_documents or self.split_at is not None

    def __post_init__(self) -> None:
        if self.split_at is None:
            return
        if self.blank_line_documents:
            raise CorpusError("corpus: documents begin at blank lines or at split_at, not at both; leave one out")
        try:
            re.compile(self.split_at)
        except (re.error, OverflowError, RecursionError) as error:
            raise CorpusError(
                f"corpus: split_at {self.split_at!r} is no regular expression ({error}); put a backslash before each "
                "sign that stands for itself"
            ) from None


class Cuts:
    """Notes whether text files were cut into documents.

    Attributes:
        heading: what is found in a line that opens a document; None cuts at blank lines.
        found: whether a file was cut.
        all_headings: a file of many lines that are all headings, and so one document; None before any.
        told: whether the user was warned about the cuts.
    """

    def __init__(self, options: ReadOptions) -> None:
        self.heading = None if options.split_at is None else re.compile(options.split_at)
        self.found = False
        self.all_headings: Path | None = None
        self.told = False


def read_file(path: Path, options: ReadOptions, cuts: Cuts) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each document of a file with one of `SUFFIXES`."""
    suffix = suffix_of(path)
    assert suffix is not None
    if suffix.startswith(".parquet"):
        return _read_parquet(path, options.text_field)
    if suffix.startswith(".jsonl"):
        return _read_json_lines(path, options.text_field)
    return _read_cut(path, cuts) if options.cuts_text else _read_whole(path)


def suffix_of(path: Path) -> str | None:
    """Return the suffix in `SUFFIXES` that a file has, or None."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def missing_field(origin: str, text_field: str, fields: Iterable[str]) -> str:
    """Return the message for a record without `text_field`; it names the field with the nearest name."""
    names = [str(name) for name in fields]
    nearest = difflib.get_close_matches(text_field, names, n=1, cutoff=0.5)
    hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
    return (
        f"corpus: {origin} has no field {text_field!r}, its fields are {', '.join(names) or '(none)'}{hint}; name the "
        "one that holds the text with `unmask prepare --text-field`, or data.text_field of a run"
    )


def _read_whole(path: Path) -> Iterator[tuple[str, str]]:
    with decoding.open_bytes(path) as stream:
        text = "".join(decoding.decoded_blocks(path, stream))
    yield text, str(path)


def _read_cut(path: Path, cuts: Cuts) -> Iterator[tuple[str, str]]:
    with decoding.open_bytes(path) as stream:
        lines = decoding.text_lines(path, stream)
        documents = _blocks(lines, cuts) if cuts.heading is None else _sections(path, lines, cuts, cuts.heading)
        for text, first in documents:
            yield text, f"{path}:{first}"


def _blocks(lines: Iterator[tuple[int, str]], cuts: Cuts) -> Iterator[tuple[str, int]]:
    for blank, group in groupby(lines, key=lambda pair: not pair[1].strip()):
        if blank:
            cuts.found = True
        else:
            numbers, block = zip(*group, strict=True)
            yield "".join(block), numbers[0]


def _sections(
    path: Path, lines: Iterator[tuple[int, str]], cuts: Cuts, heading: re.Pattern[str]
) -> Iterator[tuple[str, int]]:
    section: list[str] = []
    first = 1
    has_text = False
    for number, line in lines:
        if not heading.search(decoding.without_break(line)):
            has_text = has_text or not line.isspace()
        else:
            cuts.found = True
            if has_text:
                yield "".join(section), first
                section, first, has_text = [], number, False
        section.append(line)
    if section:
        # a list, whose lines all open one document, and no title
        if first == 1 and not has_text and sum(not line.isspace() for line in section) >= _LIST:
            cuts.all_headings = path
        yield "".join(section), first


def _read_json_lines(path: Path, text_field: str) -> Iterator[tuple[str, str]]:
    with decoding.open_bytes(path) as stream:
        for number, line in decoding.decoded_lines(path, stream):
            # a file that `cat` joined has a byte order mark for each part
            line = line.removeprefix("\ufeff")
            if not line.strip():
                continue
            origin = f"{path}:{number}"
            row = _parsed(line, origin)
            # an object is a tuple of pairs here, which shows a field that comes twice
            if not isinstance(row, tuple):
                kind = _JSON_TYPES.get(type(row), "null")
                way = ", for example with jq -c '.[]'" if isinstance(row, list) else ""
                raise CorpusError(f"corpus: {origin} must be a JSON object, got {kind}; write one object a line{way}")
            texts = [value for name, value in row if name == text_field]
            if not texts:
                raise CorpusError(missing_field(origin, text_field, [name for name, _ in row]))
            if len(texts) > 1:
                raise CorpusError(
                    f"corpus: {origin} has the field {text_field!r} {len(texts)} times; keep the one that is the text"
                )
            text = "" if texts[0] is None else texts[0]
            if not isinstance(text, str):
                kind = _JSON_TYPES[type(text)]
                raise CorpusError(f"corpus: {origin}: field {text_field!r} must be a string, got {kind}")
            if "\\ud" in line or "\\uD" in line:
                _refuse_surrogates(text, origin)
            yield text, origin


def _parsed(line: str, origin: str) -> Any:
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        known = decoding.other_format(line[:8].encode())
        whole = " (jq -c '.[]' makes such lines of an array, jq -c . of objects over several lines)"
        way = known or ("; write one object a line" + (whole if line.strip() in ("[", "{") else ""))
        raise CorpusError(f"corpus: {origin} is not valid JSON ({error.msg}, column {error.colno}){way}") from None
    except RecursionError:
        raise CorpusError(
            f"corpus: {origin} is nested too deeply to be read, about a thousand levels; leave the field that is out"
        ) from None


def _refuse_surrogates(text: str, origin: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"corpus: {origin} holds half a surrogate pair ({text[error.start]!r}) at character "
            f"{error.start}, which is no Unicode text; write the whole pair"
        ) from None


def _read_parquet(path: Path, text_field: str) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with decoding.open_seekable(path) as stream:
        try:
            table = pq.ParquetFile(stream)
            _check_column(table.schema_arrow, path, text_field)
            batches = table.iter_batches(batch_size=_PARQUET_ROWS, columns=[text_field])
            for row, value in enumerate(value for batch in batches for value in batch.column(0)):
                origin = f"{path}:row {row}"
                try:
                    text = value.as_py()
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"corpus: {origin} is not UTF-8 at byte {error.start} of the text ({error.reason}); convert "
                        "the column first"
                    ) from None
                yield text or "", origin
        # names in a damaged footer may be no text
        except (pa.ArrowException, UnicodeDecodeError) as error:
            stream.seek(0)
            way = decoding.other_format(stream.read(8)) or "; copy it again"
            raise CorpusError(f"corpus: {path} cannot be read as parquet ({error}){way}") from None


def _check_column(schema: pa.Schema, path: Path, text_field: str) -> None:
    import pyarrow as pa

    if text_field not in schema.names:
        raise CorpusError(missing_field(str(path), text_field, schema.names))
    kind = schema.field(text_field).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    # a column of nothing but nulls has no other type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_text(value) for is_text in texts):
        raise CorpusError(f"corpus: {path}: column {text_field!r} must hold strings, it holds {kind}")
