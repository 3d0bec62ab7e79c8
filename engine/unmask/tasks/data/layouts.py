"""What a file of texts looks like: the names of its columns, its labels, and how a benchmark spells them.

A benchmark has several files for one task: with and without a header, as JSON and as TSV, with labels and without. A
`TextLayout` lists the names that the columns may have; the first list whose texts are all in the file counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from unmask.errors import CorpusError
from unmask.tasks.examples import Labels

__all__ = ["OWN_COLUMNS", "Columns", "TextLayout", "layout_of_columns"]

OWN_COLUMNS = "columns"
"""The name of a layout whose columns the user names."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table; a number counts the columns of a separated file without a header, from 1.

    Attributes:
        text: of the text, or of the first one of a pair.
        pair: of the second text; None for single texts.
        label: of the label; None for a file without labels.
        id: of the example's own name; None: its number from 0.
    """

    text: str
    pair: str | None = None
    label: str | None = None
    id: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that every file must have."""
        return (self.text,) if self.pair is None else (self.text, self.pair)

    @property
    def numbered(self) -> bool:
        """Whether the columns are counted, so that the file has no header."""
        return all(name.isdecimal() and int(name) > 0 for name in self.texts)

    @property
    def width(self) -> int:
        """The number of columns of the file if its columns are counted: the last one has a part in the example."""
        return max(int(name) for name in (*self.texts, self.label) if name is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLayout:
    """The files of a task on texts.

    Attributes:
        name: of the benchmark's task, such as "sst2".
        kind: whether a label is a class, a number, or several classes.
        columns: the names that columns may have, one record for each kind of file.
        labels: the names of the classes; None: those in the training file.
        spellings: other spellings of classes in some files, each with its name in `labels`.
        unlabelled: labels that mean "none": the rows are left out of training and scores.
        only: values that columns must have where a file has them; other rows are left out.
        ragged: whether the file has broken rows with fewer columns, which are left out.
        separator: between the classes of a text that may have several.
    """

    name: str
    kind: Literal["classes", "number", "several"] = "classes"
    columns: tuple[Columns, ...]
    labels: Labels | None = None
    spellings: Mapping[str, str] = field(default_factory=dict)
    unlabelled: frozenset[str] = frozenset()
    only: Mapping[str, str] = field(default_factory=dict)
    ragged: bool = False
    separator: str = ","

    @property
    def pairs(self) -> bool:
        """Whether an example is a pair."""
        return self.columns[0].pair is not None


def layout_of_columns(
    text: str,
    *,
    pair: str | None = None,
    label: str | None = None,
    id: str | None = None,
    kind: Literal["classes", "number", "several"] = "classes",
    labels: Labels | None = None,
) -> TextLayout:
    """Return the layout of a file whose columns the user names.

    Args:
        text: column of the text, by name or by number from 1.
        pair: column of the second text.
        label: column of the label.
        id: column of the example's own name.
        kind: whether a label is a class, a number, or several classes with commas between them.
        labels: names of the classes; None: those in the training file.
    Raises:
        CorpusError: some columns are numbers and others are names.
    """
    columns = Columns(text, pair, label, id)
    given = [name for name in (text, pair, label, id) if name is not None]
    if len({Columns(name).numbered for name in given}) > 1:
        raise CorpusError(
            f"data: columns must be all names or all numbers, got {', '.join(given)}; number the columns of a file "
            "without a header, and name those of any other"
        )
    return TextLayout(name=OWN_COLUMNS, kind=kind, columns=(columns,), labels=labels)
