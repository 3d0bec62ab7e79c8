"""Texts and pairs of a file as examples, by the layout of a benchmark or by the columns that the user names."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any, NamedTuple

from unmask.errors import CorpusError
from unmask.tasks.data.layouts import OWN_COLUMNS, Columns, TextLayout
from unmask.tasks.data.rows import TableRow, read_rows, suffix_of_location, task_file
from unmask.tasks.data.rte_xml import read_rte_xml
from unmask.tasks.examples import Labels, TextExample

__all__ = ["TextRecord", "find_labels", "read_records", "read_texts", "require_pairs"]

_log = logging.getLogger(__name__)
_NO_LABEL = frozenset({"-1", "?", "-"})
_XML_COLUMNS = Columns("t", "h", "label", "id")


class TextRecord(NamedTuple):
    """An example whose label is as the file spells it; None in a file without labels.

    Attributes:
        id, text, pair, where: as in `TextExample`.
        label: as it is spelled.
    """

    id: str
    text: str
    pair: str | None
    label: str | None
    where: str


def find_labels(
    location: str | PurePath, layout: TextLayout, *, encoding: str = "utf-8", delimiter: str | None = None
) -> Labels:
    """Return the labels of a task: those of the layout, or those in this file.

    Args:
        location: the training file.
        layout: of the file.
        encoding: of the file.
        delimiter: between the columns of a separated file.
    Raises:
        CorpusError: the file cannot be read, or has no labels.
    """
    if layout.labels is not None:
        return layout.labels
    names: set[str] = set()
    for record in read_records(location, layout, encoding=encoding, delimiter=delimiter, labelled=True):
        names.update(_names(record.label or "", layout))
    if not names:
        raise CorpusError(f"data: {location} has no label in any line; train on a file with labels")
    return Labels.found_in(names)


def read_texts(
    location: str | PurePath,
    layout: TextLayout,
    labels: Labels | None,
    *,
    labelled: bool = True,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> list[TextExample]:
    """Return the examples of a file.

    Args:
        location: the file, an address, a saved data set or hf://owner/name:split.
        layout: of the file.
        labels: of training, from `find_labels`; None for a regression.
        labelled: whether the file must have labels. If not, and it has none, `label` is None everywhere.
        encoding: of the file.
        delimiter: between the columns of a separated file. None: a comma in `.csv`, else a tab.
    Raises:
        CorpusError: the file is missing or cannot be read; a column is missing, with the nearest name; a label is
            missing, is no number, or is one that training never saw.
    """
    examples = []
    left_out: list[str] = []
    for record in read_records(location, layout, encoding=encoding, delimiter=delimiter, labelled=labelled):
        if labelled and record.label in layout.unlabelled:
            left_out.append(record.where)
            continue
        label = None if record.label is None else _label(record.label, layout, labels, record.where, labelled)
        examples.append(TextExample(record.id, record.text, record.pair, label, record.where))
    if left_out:
        _log.info(
            f"data: examples of {location} without a label ({', '.join(layout.unlabelled)}) are left out: "
            f"{len(left_out):,}"
        )
    if len({one.id for one in examples}) < len(examples):
        examples = [replace(one, id=str(number)) for number, one in enumerate(examples)]
    if not examples:
        raise CorpusError(f"data: {location} has no example; give a file with at least one")
    return examples


def require_pairs(examples: Sequence[TextExample], *, pairs: bool) -> None:
    """Require that examples are pairs, or single texts, as the model was trained.

    Raises:
        CorpusError: one is not.
    """
    for one in examples:
        if (one.pair is not None) is pairs:
            continue
        place = one.where
        if pairs:
            raise CorpusError(
                f"data: {place} must be a pair of texts, as in training, got a single text; name the column of the "
                "second text"
            )
        raise CorpusError(
            f"data: {place} must be a single text, as in training, got a pair; name one column of text, or take "
            "a model that was trained on pairs"
        )


def read_records(
    location: str | PurePath,
    layout: TextLayout,
    *,
    labelled: bool,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> Iterator[TextRecord]:
    """Yield the examples of a file with their labels as they are spelled; the arguments are those of `read_texts`.

    Raises:
        CorpusError: the file is missing or cannot be read, or a column or a label is missing.
    """
    columns: Columns | None = None
    if suffix_of_location(location) == ".xml":
        rows: Iterator[TableRow] = read_rte_xml(task_file(location))
        columns = _XML_COLUMNS
    else:
        rows = read_rows(
            location,
            lambda cells: _has_header(cells, layout),
            encoding=encoding,
            delimiter=delimiter,
            ragged=layout.ragged,
        )
    number = 0
    for values, place in rows:
        columns = columns or _columns_in(values, layout, place)
        if any(values.get(column, wanted) != wanted for column, wanted in layout.only.items()):
            continue
        texts = [_text(values, column, place) for column in columns.texts]
        label = _label_text(values, columns, layout, place, labelled)
        given = None if columns.id is None else values.get(columns.id)
        yield TextRecord(
            str(number) if given is None else str(given), texts[0], texts[1] if len(texts) > 1 else None, label, place
        )
        number += 1


def _has_header(cells: Sequence[str], layout: TextLayout) -> bool:
    if any(set(columns.texts) <= set(cells) for columns in layout.columns if not columns.numbered):
        return True
    # a file of another width is another file: its first line is taken for a header, whose names the error shows
    widths = [columns.width for columns in layout.columns if columns.numbered]
    return not (widths and (layout.name == OWN_COLUMNS or len(cells) in widths))


def _columns_in(values: Any, layout: TextLayout, place: str) -> Columns:
    """Return the columns of the layout that are in a row; those whose label and id are there come first."""
    fitting = [columns for columns in layout.columns if set(columns.texts) <= set(values)]
    if fitting:
        return max(fitting, key=lambda columns: (columns.label in values, columns.id in values))
    wanted = layout.columns[0].texts
    missing = next(name for name in wanted if name not in values)
    raise CorpusError(_missing_column(place, missing, list(values), layout))


def _missing_column(place: str, name: str, columns: list[str], layout: TextLayout) -> str:
    close = difflib.get_close_matches(name, columns, n=1)
    nearest = f", the nearest is {close[0]!r}" if close else ""
    if layout.name == OWN_COLUMNS:
        return (
            f"data: {place} has no column {name!r}, its columns are {', '.join(columns)}{nearest}; name the right one, "
            "or number the columns from 1 if the first line is no header"
        )
    return (
        f"data: {place} has no column {name!r} of the files of {layout.name}, its columns are {', '.join(columns)}"
        f"{nearest}; give a file of {layout.name}, or name the columns of yours and a task instead of a benchmark"
    )


def _text(values: Any, column: str, place: str) -> str:
    if column not in values:
        raise CorpusError(
            f"data: {place} has no field {column!r}, which the lines before it have; add it, or leave the line out"
        )
    text = values[column]
    if text is None:
        return ""
    if not isinstance(text, str):
        kind = type(text).__name__
        raise CorpusError(
            f"data: {place}: column {column!r} must hold text, it holds {kind}; name the column of a text"
        )
    return text


def _label_text(values: Any, columns: Columns, layout: TextLayout, place: str, labelled: bool) -> str | None:
    """Return the label as text; None if the file has none, which is refused where labels are needed."""
    given = None if columns.label is None else values.get(columns.label)
    if given is not None and given != "":
        if isinstance(given, list):
            return layout.separator.join(map(str, given))
        return str(int(given)) if isinstance(given, bool) else str(given).strip()
    if not labelled:
        return None
    if columns.label is not None and columns.label not in values:
        raise CorpusError(_missing_column(place, columns.label, list(values), layout))
    if layout.kind == "several" and columns.label is not None:
        return ""
    raise CorpusError(f"data: {place} has no label; add it, or leave the line out")


def _names(label: str, layout: TextLayout) -> list[str]:
    parts = [part.strip() for part in label.split(layout.separator)] if layout.kind == "several" else [label]
    return [layout.spellings.get(part, part) for part in parts if part]


def _label(
    label: str, layout: TextLayout, labels: Labels | None, place: str, labelled: bool
) -> int | float | tuple[int, ...] | None:
    # files of test sets have such marks in the place of a label
    if not labelled and (label in _NO_LABEL or label in layout.unlabelled):
        return None
    if layout.kind == "number":
        try:
            number = float(label)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
        raise CorpusError(f"data: {place}: the label must be a number, got {label!r}; mend it, or leave the line out")
    assert labels is not None
    names = _names(label, layout)
    indices = [labels.index(name, place) for name in names]
    return tuple(sorted(set(indices))) if layout.kind == "several" else indices[0]
