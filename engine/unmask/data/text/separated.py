"""Tables of separated values: `.csv` and `.tsv`, a row a document, read by Python's `csv`. Rows are streamed.

    .csv     commas; quotes as in RFC 4180, so a text may hold commas and line breaks
    .tsv     tabs; a quote is a character as any other, as in the files of GLUE

The first line names the columns, unless `text_field` is a number: then the file has no such line, and the number counts
columns from 1. All rows must have as many columns as the first, since another number shows a separator inside a text.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from unmask.data.text import decoding
from unmask.data.text.options import Cuts, ReadOptions, joined, missing_field
from unmask.data.text.remote import FilePath
from unmask.errors import CorpusError
from unmask.paths import printable

__all__ = ["QUOTING", "read_csv", "read_tsv", "separated_rows"]

# a cell may be a book; more does not fit a C long on every system
_LARGEST_CELL = (1 << 31) - 1
QUOTING = {",": csv.QUOTE_MINIMAL, "\t": csv.QUOTE_NONE}
"""How quotes are read in a `.csv` and in a `.tsv`, by the character between their columns."""

_SHOWN, _SHOWN_CHARACTERS = 10, 20
_OTHERS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','"}


def read_csv(path: FilePath, options: ReadOptions, cuts: Cuts) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each row of a `.csv`."""
    return _read(path, options, options.delimiter or ",", QUOTING[","])


def read_tsv(path: FilePath, options: ReadOptions, cuts: Cuts) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each row of a `.tsv`."""
    return _read(path, options, options.delimiter or "\t", QUOTING["\t"])


def _read(path: FilePath, options: ReadOptions, delimiter: str, quoting: int) -> Iterator[tuple[str, str]]:
    with decoding.open_bytes(path) as stream:
        rows = separated_rows(path, decoding.kept_lines(path, stream, options.encoding), delimiter, quoting)
        columns = options.columns
        chosen: list[int] = []
        width = 0
        for number, row in rows:
            origin = f"{path}:{number}"
            if not chosen:
                width = len(row)
                chosen = _named(origin, row, options, delimiter) if columns is None else _counted(origin, row, columns)
                if columns is None:
                    continue
            if len(row) != width:
                way = (
                    "put quotes around a text that holds the separator"
                    if quoting == csv.QUOTE_MINIMAL
                    else "if quotes hold texts with tabs or line breaks, name the file .csv and give --delimiter tab "
                    "(data.delimiter of a run)"
                )
                raise CorpusError(
                    f"corpus: {origin} must have as many columns as the first line, {width}, it has {len(row)}; {way}"
                )
            yield joined(row[column] for column in chosen), origin


def separated_rows(
    path: FilePath, lines: Iterator[str], delimiter: str, quoting: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line, from 1, and the cells of each row that is not blank.

    Args:
        path: the file, for messages.
        lines: its lines with their line breaks.
        delimiter: the character between two cells.
        quoting: whether quotes hold cells together, as in Python's `csv`.
    Raises:
        CorpusError: the file is not valid CSV.
    """
    csv.field_size_limit(_LARGEST_CELL)
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    number = 1
    try:
        for row in reader:
            if row:
                yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(
            f"corpus: {path}:{number} is not valid CSV ({error}); write a quote inside a quoted text twice, and close "
            "each one"
        ) from None


def _named(origin: str, header: list[str], options: ReadOptions, delimiter: str) -> list[int]:
    names = [cell.strip() for cell in header]
    for field in options.fields:
        if names.count(field) == 1:
            continue
        if field in names:
            raise CorpusError(
                f"corpus: {origin} has the column {field!r} {names.count(field)} times; give the others other names"
            )
        raise CorpusError(missing_field(origin, field, names) + _other_separator(header, delimiter))
    return [names.index(field) for field in options.fields]


def _other_separator(header: list[str], delimiter: str) -> str:
    other = next((mark for mark in _OTHERS if mark != delimiter and any(mark in cell for cell in header)), None)
    if len(header) == 1 and other is not None:
        mark = _OTHERS[other]
        return f"; if {mark} separates the columns, give --delimiter {mark} (data.delimiter of a run)"
    numbered = ", ".join(f"{n}: {_beginning(cell)}" for n, cell in enumerate(header[:_SHOWN], 1))
    return f"; where the first line is no header, give --text-field the number of the text's column ({numbered})"


def _beginning(cell: str) -> str:
    text = printable(cell)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _counted(origin: str, row: list[str], columns: tuple[int, ...]) -> list[int]:
    if max(columns) > len(row):
        raise CorpusError(
            f"corpus: {origin} has no column {max(columns)}, it has {len(row)}; give a number from 1 to {len(row)} "
            "with --text-field (data.text_field of a run)"
        )
    return [column - 1 for column in columns]
