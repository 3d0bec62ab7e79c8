"""Reads raw text: a stream of `Document`s from directories and files, one at a time.

    .txt .md    a document per file, or per blank-line-separated block
    .jsonl      a document per line, its text in one field
    .parquet    a document per row, its text in one column
    each also as .gz

Every file is UTF-8 (a byte order mark is dropped). Text is read as it is: nothing is cleaned or filtered
here, a null or empty text is an empty document. `.jsonl` and `.parquet` are streamed, a `.txt` or `.md` of
one document is in memory while it is yielded. Each input that is named becomes one *source*. The order is the
order of the inputs, inside a directory the sorted order of the paths.
"""

from __future__ import annotations

import difflib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unmask.data.text_files import decoded_lines, errors_named, open_bytes, open_seekable
from unmask.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SUFFIXES", "CorpusFile", "Document", "corpus_files", "read_corpus"]

SUFFIXES = (".txt", ".md", ".jsonl", ".parquet", ".txt.gz", ".md.gz", ".jsonl.gz", ".parquet.gz")

_PARQUET_ROWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document of raw text.

    Args:
        text: the text as it stands in the file.
        source: the input that it came from, the unit that composition by source works on.
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


def corpus_files(inputs: Sequence[str | Path]) -> list[CorpusFile]:
    """Lists the files that the inputs name: files as they are, directories searched in depth for `SUFFIXES`.

    Hidden files and folders inside a directory are left out. A source is named by its directory or its file
    without suffix; inputs whose names collide keep the path as it was given.

    Raises:
        CorpusError: nothing given, an input is missing or unreadable, has a suffix not in `SUFFIXES`, or
            holds no such file.
    """
    if not inputs:
        raise CorpusError("corpus: at least one file or directory is needed, got none")
    paths = [Path(given) for given in inputs]
    names = [path.resolve().name if path.is_dir() else _stem(path) for path in paths]
    taken = Counter(names)
    files: list[CorpusFile] = []
    for path, name in zip(paths, names, strict=True):
        source = name if taken[name] == 1 else str(path)
        if path.is_dir():
            files.extend(_file(found, source) for found in _search(path))
        elif path.exists():
            if _suffix(path) is None:
                suffix = path.suffix or "(none)"
                raise CorpusError(f"corpus: {path} has the suffix {suffix}; files read are {', '.join(SUFFIXES)}")
            files.append(_file(path, source))
        else:
            raise CorpusError(f"corpus: {path} does not exist")
    return files


def read_corpus(
    inputs: Sequence[str | Path], *, text_field: str = "text", blank_line_documents: bool = False
) -> Iterator[Document]:
    """Yields every document of the inputs.

    Args:
        inputs: files and directories.
        text_field: field of a JSON line or column of a parquet file that holds the text.
        blank_line_documents: a `.txt` or `.md` is a document per block between blank lines instead of one document.

    Raises:
        CorpusError: see `corpus_files`; a file is unreadable, damaged, binary or not UTF-8, a JSON line is
            malformed, the text field is absent or not text, or the whole corpus has no text. The message
            names the file and the byte, line or row.
    """
    found_text = False
    for file in corpus_files(inputs):
        with errors_named(file.path):
            for document in _read_file(file, text_field=text_field, blank_line_documents=blank_line_documents):
                found_text = found_text or bool(document.text.strip())
                yield document
    if not found_text:
        raise CorpusError(f"corpus: {', '.join(str(given) for given in inputs)} holds no text; every document is empty")


def _read_file(file: CorpusFile, *, text_field: str, blank_line_documents: bool) -> Iterator[Document]:
    kind = cast(str, _suffix(file.path)).removesuffix(".gz")
    if kind == ".parquet":
        yield from _read_parquet(file, text_field)
    elif kind == ".jsonl":
        yield from _read_jsonl(file, text_field)
    elif blank_line_documents:
        yield from _read_blocks(file)
    else:
        with open_bytes(file.path) as stream:
            text = "".join(line for _, line in decoded_lines(file.path, stream, chunk=1 << 20))
        yield Document(text=text, source=file.source, origin=str(file.path))


def _read_blocks(file: CorpusFile) -> Iterator[Document]:
    block: list[str] = []
    first = 0
    with open_bytes(file.path) as stream:
        for number, line in decoded_lines(file.path, stream):
            if line.strip():
                first = first if block else number
                block.append(line)
            elif block:
                yield Document(text="".join(block), source=file.source, origin=f"{file.path}:{first}")
                block = []
    if block:
        yield Document(text="".join(block), source=file.source, origin=f"{file.path}:{first}")


def _read_jsonl(file: CorpusFile, text_field: str) -> Iterator[Document]:
    with open_bytes(file.path) as stream:
        for number, line in decoded_lines(file.path, stream):
            if not line.strip():
                continue
            origin = f"{file.path}:{number}"
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
                raise CorpusError(_missing_field(origin, text_field, row))
            text = "" if row[text_field] is None else row[text_field]
            if not isinstance(text, str):
                raise CorpusError(f"corpus: {origin}: field {text_field!r} must be a string, got {_json_type(text)}")
            if "\\ud" in line or "\\uD" in line:
                _refuse_surrogates(text, origin)
            yield Document(text=text, source=file.source, origin=origin)


def _read_parquet(file: CorpusFile, text_field: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_seekable(file.path) as stream:
        try:
            table = pq.ParquetFile(stream)
            _check_column(table.schema_arrow, file.path, text_field)
            row = 0
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[text_field]):
                column = batch.column(0)
                for index in range(len(column)):
                    origin = f"{file.path}:row {row}"
                    row += 1
                    try:
                        text = column[index].as_py()
                    except UnicodeDecodeError as error:
                        raise CorpusError(
                            f"corpus: {origin} is not UTF-8 at byte {error.start} of the text "
                            f"({error.reason}); convert the column first"
                        ) from None
                    yield Document(text=text or "", source=file.source, origin=origin)
        except pa.ArrowException as error:
            raise CorpusError(f"corpus: {file.path} cannot be read as parquet ({error})") from None


def _check_column(schema: pa.Schema, path: Path, text_field: str) -> None:
    import pyarrow as pa

    if text_field not in schema.names:
        raise CorpusError(_missing_field(str(path), text_field, schema.names))
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


def _search(folder: Path) -> list[Path]:
    found: list[Path] = []
    with errors_named(folder):
        for here, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found.extend(Path(here, name) for name in names if not name.startswith(".") and _suffix(Path(name)))
    if not found:
        raise CorpusError(f"corpus: {folder} holds no file to read; files read are {', '.join(SUFFIXES)}")
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _file(path: Path, source: str) -> CorpusFile:
    with errors_named(path):
        return CorpusFile(path=path, source=source, bytes=path.stat().st_size)


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def _stem(path: Path) -> str:
    suffix = _suffix(path)
    return path.name[: -len(suffix)] if suffix else path.name


def _missing_field(origin: str, text_field: str, fields: Iterable[str]) -> str:
    names = [str(name) for name in fields]
    nearest = difflib.get_close_matches(text_field, names, n=1, cutoff=0.5)
    hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
    return (
        f"corpus: {origin} has no field {text_field!r}, its fields are {', '.join(names) or '(none)'}{hint}; name the "
        "one that holds the text with `unmask prepare --text-field`, or data.text_field of a run"
    )


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
