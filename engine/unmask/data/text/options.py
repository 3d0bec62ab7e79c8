"""How text is read: which field holds it, where documents begin, what encoding it has."""

from __future__ import annotations

import codecs
import csv
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from unmask.config.settings import between_commas
from unmask.data.text.decoding import check_encoding
from unmask.data.text.remote import FilePath
from unmask.errors import CorpusError

__all__ = ["Cuts", "ReadOptions", "joined", "missing_field"]

_BETWEEN = "\n\n"
_TAB = "tab"
_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """Where the documents of a file begin, which field holds the text, and how bytes become characters.

    Attributes:
        text_field: field of a JSON object, or column of a table, that holds the text. Several are separated by commas;
            a name that holds a comma stands in double quotes. Whole numbers are the columns, from 1, of a `.csv` or
            `.tsv` without a header line, or of CoNLL columns.
        blank_line_documents: whether each block between blank lines of a text file is a document.
        split_at: regular expression; a document of a `.txt` or `.md` begins at each line in which it is found. It is
            tried on the line without its line break.
        encoding: encoding of all files but parquet, by its name in Python.
        delimiter: the character between the columns of `.csv` and `.tsv`; `tab` for a tab. None: a comma in `.csv`, a
            tab in `.tsv`.

    Raises:
        CorpusError: `text_field` names no field; `split_at` is no regular expression, or `blank_line_documents` is set
            too; there is no such encoding; or `delimiter` is not one character.
    """

    text_field: str = "text"
    blank_line_documents: bool = False
    split_at: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in `text_field`."""
        return _names(self.text_field)

    @property
    def columns(self) -> tuple[int, ...] | None:
        """The numbers in `text_field`, from 1, if it names columns by their numbers."""
        names = self.fields
        return tuple(map(int, names)) if all(_is_number(name) for name in names) else None

    @property
    def cuts_text(self) -> bool:
        """Whether a text file may be several documents."""
        return self.blank_line_documents or self.split_at is not None

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which documents a file holds. Options that came later count only if they are used."""
        known = {name: getattr(self, name) for name in ("text_field", "blank_line_documents", "split_at")}
        later = {"encoding": codecs.lookup(self.encoding).name, "delimiter": self.delimiter}
        return known | {name: value for name, value in later.items() if value not in (None, "utf-8")}

    def __post_init__(self) -> None:
        _check_names(self.text_field)
        check_encoding(self.encoding)
        if self.delimiter == _TAB:
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise CorpusError(
                f"corpus: delimiter must be one character, no quote and no line break, got {self.delimiter!r}; "
                "give for example ';', or tab"
            )
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
        missed: number of the text files in which no line opens a document.
        named: the first of these.
        all_headings: a file of many lines that are all headings, and so one document; None before any.
        told: whether the user was warned about the cuts.
    """

    def __init__(self, options: ReadOptions) -> None:
        self.heading = None if options.split_at is None else re.compile(options.split_at)
        self.found = False
        self.missed = 0
        self.named: list[FilePath] = []
        self.all_headings: FilePath | None = None
        self.told = False

    def note_missed(self, path: FilePath) -> None:
        """Note a text file in which no line opens a document."""
        self.missed += 1
        if self.missed <= _NAMED:
            self.named.append(path)


def joined(texts: Iterable[str | None]) -> str:
    """Return the texts of one record as one: a blank line, which ends a sentence, stands between those not empty."""
    values = [text or "" for text in texts]
    return values[0] if len(values) == 1 else _BETWEEN.join(value for value in values if value.strip())


def missing_field(origin: str, text_field: str, fields: Iterable[str]) -> str:
    """Return the message for a record without the field `text_field`; it names the field with the nearest name."""
    names = [str(field) for field in fields]
    nearest = difflib.get_close_matches(text_field, names, n=1)
    hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
    return (
        f"corpus: {origin} has no field {text_field!r}, its fields are {', '.join(names) or '(none)'}{hint}; name the "
        "one that holds the text with `unmask prepare --text-field`, or data.text_field of a run, and several with a "
        "comma between them, as in title,body; a pattern such as --input 'texts/*.txt' leaves this file out"
    )


def _names(text_field: str) -> tuple[str, ...]:
    return tuple(next(csv.reader([text_field], skipinitialspace=True, strict=True), ()))


def _is_number(name: str) -> bool:
    return re.fullmatch("[1-9][0-9]{0,8}", name) is not None


def _check_names(text_field: str) -> None:
    if not isinstance(text_field, str):
        listed = isinstance(text_field, list | tuple) and text_field
        way = (
            f"write {','.join(map(between_commas, text_field))!r}, with commas between the names"
            if listed
            else 'write a number in quotes too, such as "3"'
        )
        raise CorpusError(f"corpus: text_field must be a string, got {text_field!r}; {way}")
    try:
        names = _names(text_field)
    except csv.Error:
        names = ()
    if not names or not all(names) or len(set(names)) < len(names):
        raise CorpusError(
            f"corpus: text_field must name a field, or several different ones with commas between them, got "
            f"{text_field!r}; write for example title,text, and a name that holds a comma in double quotes"
        )
