"""Rows of a table, whatever its file: `.tsv`, `.csv`, JSON, JSON lines, parquet, and data sets of `datasets`.

    .tsv, .txt, other   tabs; a quote is a character as any other, as in the files of GLUE
    .csv                commas; quotes as in RFC 4180
    .json, .jsonl       objects, one a line or in an array
    .parquet            a row a row
    hf://owner/name:split, or a folder of `save_to_disk`

A row maps the names of its columns to values. A separated file without a header has the names "1", "2" and so on.
Each may be compressed (`data/text/decoding.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from unmask.data.text import decoding
from unmask.data.text.hugging_face import HUB, dataset_splits
from unmask.data.text.json_text import read_objects
from unmask.data.text.remote import FilePath, is_remote, remote_path
from unmask.data.text.separated import QUOTING, separated_rows
from unmask.errors import CorpusError

__all__ = ["TableRow", "read_rows", "suffix_of_location", "task_file"]

_log = logging.getLogger(__name__)
_JSON = (".json", ".jsonl", ".ndjson", ".jsonlines")
_ROWS = 1024


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
        values: by the name of the column.
        where: file and line.
    """

    values: Mapping[str, Any]
    where: str


def task_file(location: str | PurePath) -> FilePath:
    """Return the path of a file of a task, here or at an address.

    Raises:
        CorpusError: there is no such file.
    """
    if is_remote(str(location)):
        return remote_path(str(location))
    path = Path(location)
    if not path.exists():
        from unmask.paths import nearest_name

        near = nearest_name(path)
        raise CorpusError(f"data: {path} does not exist{f', {near} does' if near else ''}; give the path of a file")
    return path


def suffix_of_location(location: str | PurePath) -> str:
    """Return the suffix of a file's name in small letters, without that of a compression; "/" for a folder."""
    name = PurePath(str(location).partition("?")[0].lower())
    if "://" not in str(location) and Path(location).is_dir():
        return "/"
    return PurePath(name.stem if name.suffix in decoding.COMPRESSED else name).suffix


def read_rows(
    location: str | PurePath,
    is_header: Callable[[Sequence[str]], bool],
    *,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    ragged: bool = False,
) -> Iterator[TableRow]:
    """Yield the rows of a table.

    Args:
        location: a file, an address of one, a saved data set, or hf://owner/name:split.
        is_header: whether the first line of a separated file, given as its cells, names the columns.
        encoding: of the text.
        delimiter: between the columns of a separated file. None: a comma in `.csv`, else a tab.
        ragged: leave out rows with fewer columns than the first and say how many, instead of refusing them.
    Raises:
        CorpusError: the file is missing, cannot be read, or has rows of several widths.
    """
    if str(location).startswith(HUB) and not is_remote(str(location)):
        yield from _dataset_rows(str(location))
        return
    path = task_file(location)
    if isinstance(path, Path) and path.is_dir():
        yield from _dataset_rows(str(path))
        return
    suffix = suffix_of_location(path.name)
    with decoding.errors_named(path):
        if suffix in _JSON:
            for place, values in read_objects(path, encoding):
                yield TableRow(values, f"{path}, {place}")
        elif suffix == ".parquet":
            yield from _parquet_rows(path)
        else:
            usual = "," if suffix == ".csv" else "\t"
            yield from _separated_rows(path, is_header, encoding, (delimiter or usual, QUOTING[usual]), ragged)


def _separated_rows(
    path: FilePath, is_header: Callable[[Sequence[str]], bool], encoding: str, dialect: tuple[str, int], ragged: bool
) -> Iterator[TableRow]:
    names: list[str] = []
    left_out: list[str] = []
    with decoding.open_bytes(path) as stream:
        lines = decoding.kept_lines(path, stream, encoding)
        for number, cells in separated_rows(path, lines, *dialect):
            place = f"{path}, line {number}"
            if not names:
                header = is_header([cell.strip() for cell in cells])
                names = [cell.strip() for cell in cells] if header else [str(n) for n in range(1, len(cells) + 1)]
                if header:
                    continue
            if len(cells) < len(names) and ragged:
                left_out.append(place)
                continue
            if len(cells) != len(names) and not ragged:
                raise CorpusError(
                    f"data: {place} must have as many columns as the first line, {len(names)}, it has {len(cells)}; "
                    "write no separator inside a text, or name a file with quoted texts .csv"
                )
            yield TableRow(dict(zip(names, cells, strict=False)), place)
    if left_out:
        _log.warning(
            f"data: rows of {path} with fewer than {len(names)} columns are left out: {len(left_out):,}, the first is "
            f"{left_out[0]}"
        )


def _parquet_rows(path: FilePath) -> Iterator[TableRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with decoding.open_seekable(path) as stream:
        try:
            number = 0
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=_ROWS):
                for values in batch.to_pylist():
                    yield TableRow(values, f"{path}, row {number}")
                    number += 1
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise CorpusError(f"data: {path} cannot be read as parquet ({error}); copy it again") from None


def _dataset_rows(location: str) -> Iterator[TableRow]:
    for name, rows in dataset_splits(location):
        # the names of classes stand in the features
        named = {
            column: getattr(getattr(feature, "feature", feature), "names", None)
            for column, feature in (rows.features or {}).items()
        }
        for number, row in enumerate(rows):
            values = dict(row)
            for column, names in named.items():
                if names:
                    values[column] = _class_names(values[column], names)
            yield TableRow(values, f"{name}, row {number}")


def _class_names(given: Any, names: Sequence[str]) -> Any:
    """Return the name of a class, or the names of a list of them; None for -1, which is "no label" there."""
    if isinstance(given, list):
        return [_class_names(one, names) for one in given]
    return given if not isinstance(given, int) else names[given] if 0 <= given < len(names) else None
