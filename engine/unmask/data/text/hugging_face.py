"""Documents from Hugging Face data sets.

    path/of/folder                  what Dataset.save_to_disk or DatasetDict.save_to_disk wrote, all splits
    hf://owner/name:split           streamed from the hub; the split is `train` unless it is given
    hf://owner/name@config:split    the same, with a configuration of the data set
    hf:///a/folder:split            files in a folder, of any form that `datasets` reads

`hf://datasets/owner/name/PATH` names files of the hub, which `remote.py` reads without `datasets`.

Needs the package `datasets` (extra `datasets`). Rows keep their order. A data set of the hub is streamed each time the
text is read, so twice if a tokenizer is trained; save it to disk to fetch it once.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from unmask.data.text.options import joined, missing_field
from unmask.errors import CorpusError

__all__ = ["HUB", "dataset_splits", "read_dataset"]

HUB = "hf://"


def read_dataset(location: str, fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each row.

    Raises:
        CorpusError: `datasets` is not installed; the data set cannot be loaded; or it lacks a column of `fields`, or
            one that does not hold strings.
    """
    for name, rows in dataset_splits(location):
        columns = rows.column_names
        if columns is not None:
            for field in fields:
                if field not in columns:
                    raise CorpusError(missing_field(name, field, columns))
            rows = rows.select_columns(list(fields))
        for number, row in enumerate(rows):
            origin = f"{name}:row {number}"
            yield joined(_text(row, field, origin) for field in fields), origin


def _text(row: dict[str, Any], field: str, origin: str) -> str | None:
    if field not in row:
        raise CorpusError(missing_field(origin, field, row))
    text = row[field]
    if text is not None and not isinstance(text, str):
        kind = type(text).__name__
        raise CorpusError(f"corpus: {origin}: column {field!r} must hold strings, it holds {kind}")
    return text


def dataset_splits(location: str) -> list[tuple[str, Any]]:
    """Return name and rows of each split.

    Raises:
        CorpusError: `datasets` is not installed, or the data set cannot be loaded.
    """
    try:
        import datasets
    except ImportError:
        raise CorpusError(
            f"corpus: {location} needs the package datasets; pip install 'unmask[datasets]' brings it"
        ) from None
    try:
        if location.startswith(HUB):
            path, _, split = location.removeprefix(HUB).partition(":")
            path, _, config = path.partition("@")
            return [(location, datasets.load_dataset(path, config or None, split=split or "train", streaming=True))]
        saved = datasets.load_from_disk(location)
    # datasets lets the errors of its many readers through
    except Exception as error:
        raise CorpusError(
            f"corpus: {location} cannot be loaded as a data set ({error}); give "
            "hf://owner/name:split, hf://datasets/owner/name/PATH for files in its repository, or a saved one"
        ) from None
    if isinstance(saved, datasets.DatasetDict):
        return [(f"{location}/{name}", saved[name]) for name in saved]
    return [(location, saved)]
