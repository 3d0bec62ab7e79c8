"""The file of the variants: the columns that the training file has, so that the same settings read both.

    .tsv            tabs; a text that holds a tab or a line break gets spaces for them, as the tokenizer reads them
    .csv            commas, and quotes where a text needs them
    .jsonl, .json   an object a line

Columns that are counted from 1 make a file without a header, in which the other columns are empty.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from unmask.tasks.data.layouts import Columns, TextLayout

__all__ = ["SUFFIXES", "columns_to_write", "table_lines"]

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json")
"""Of files that can be written."""

_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")


def columns_to_write(layout: TextLayout) -> Columns:
    """Return the columns of a file that the layout reads: names where it has names."""
    return min(layout.columns, key=lambda columns: (columns.label is None, columns.numbered))


def table_lines(path: Path, layout: TextLayout, rows: Iterable[tuple[str, str | None, str | None]]) -> Iterator[str]:
    """Yield the lines of a file, each with its end.

    Args:
        path: of the file, whose suffix, one of `SUFFIXES`, decides the format.
        layout: of the training file.
        rows: text, second text of a pair, and label, as it is spelled; None where the training file has none.
    """
    columns = columns_to_write(layout)
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl"):
        names = Columns("text", "pair", "label") if columns.numbered else columns
        for row in rows:
            yield json.dumps(_cells(names, row), ensure_ascii=False) + "\n"
        return
    header: list[str] | None = None
    for row in rows:
        cells = _cells(columns, row)
        if header is None:
            if columns.numbered:
                header = [str(place) for place in range(1, columns.width + 1)]
            else:
                header = list(cells)
                yield _line(header, suffix)
        yield _line([cells.get(name, "") for name in header], suffix)


def _cells(columns: Columns, row: tuple[str, str | None, str | None]) -> Mapping[str, str]:
    names = (columns.text, columns.pair, columns.label)
    return {name: value for name, value in zip(names, row, strict=True) if name is not None and value is not None}


def _line(cells: list[str], suffix: str) -> str:
    if suffix != ".csv":
        return "\t".join(_BREAKS.sub(" ", cell) for cell in cells) + "\n"
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
