"""Sentences as words with a tag each: CoNLL columns, and tables with lists of words.

    EU NNP B-NP B-ORG         a word a line, its columns between tabs or spaces, or another separator
    rejects VBZ B-VP O
                              a blank line ends a sentence
    -DOCSTART- -X- -X- O      opens a document, as `#begin document` does, and is no word

The word is in the first column and the tag in the last one, unless the user gives other numbers. In JSON, parquet and
data sets of `datasets` the columns `tokens` and `ner_tags` hold lists. Tags of any scheme become BIO, or the scheme
that the user asks for (`tags.py`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from unmask.config.settings import counted
from unmask.data.text import decoding
from unmask.data.text.conll import is_document_mark
from unmask.data.text.hugging_face import HUB
from unmask.errors import CorpusError
from unmask.tasks.data.rows import read_rows, suffix_of_location, task_file
from unmask.tasks.examples import Labels, WordsExample
from unmask.tasks.tags import Scheme, entities_of, first_break, scheme_of, tags_of

__all__ = ["WordsLayout", "find_tags", "read_sentences", "tag_indices"]

_log = logging.getLogger(__name__)
# a folder is a saved data set
_TABLES = (".json", ".jsonl", ".ndjson", ".jsonlines", ".parquet", "/")
# a word may be another space, such as U+3000
_SPACES = re.compile("[ \t]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class WordsLayout:
    """The columns of a file of words.

    Attributes:
        name: of the benchmark, such as "conll2003".
        word: number of the column with the words, from 1; in a table its name.
        tag: number of the column with the tags; negative ones count from the last, which is -1; in a table its name.
        separator: between columns; None: tabs where a line has one, else spaces.
    """

    name: str = "columns"
    word: int | str | None = None
    tag: int | str | None = None
    separator: str | None = None


def read_sentences(
    location: str | PurePath,
    layout: WordsLayout | None = None,
    *,
    tagged: bool = True,
    scheme: Scheme | None = "BIO",
    encoding: str = "utf-8",
    warns: bool = True,
) -> list[WordsExample]:
    """Return the sentences of a file.

    Warns of broken sequences of tags, with the line of the first; they are read as `conlleval` reads them.

    Args:
        location: the file, an address, a saved data set or hf://owner/name:split.
        layout: its columns. None: word first and tag last, or `tokens` and `ner_tags`.
        tagged: whether the file must have tags. If not, and it has none, `tags` is None.
        scheme: of the tags that are returned. None: as they stand in the file.
        encoding: of the file.
        warns: whether broken sequences are told; those of predictions are no news.
    Raises:
        CorpusError: the file is missing, cannot be read or holds no sentence, or a line lacks its word or its tag.
    """
    layout = layout or WordsLayout()
    columns = str(location).startswith("hf://datasets/") or not str(location).startswith(HUB)
    read = _column_sentences if columns and suffix_of_location(location) not in _TABLES else _table_sentences
    found = [
        WordsExample(str(number), words, tags, place)
        for number, (words, tags, place) in enumerate(read(location, layout, tagged, encoding))
    ]
    if not found:
        raise CorpusError(f"data: {location} holds no sentence; give a file with a word a line")
    if warns:
        _tell_of_breaks(found, scheme_of(one.tags for one in found if one.tags is not None))
    if scheme is None:
        return found
    return [_converted(one, scheme) if one.tags is not None else one for one in found]


def find_tags(examples: Iterable[WordsExample], scheme: Scheme = "BIO") -> Labels:
    """Return the labels of tags: O, then those of each type of entity, whichever of them the examples have.

    Args:
        examples: of training, with tags.
        scheme: of their tags.
    """
    types = sorted({entity.type for one in examples for entity in entities_of(one.tags or ())})
    letters = {"BIO": "BI", "IOB1": "BI", "BIOES": "BIES", "BMES": "BMES"}[scheme]
    return Labels(("O", *(f"{letter}-{type_}" if type_ else letter for type_ in types for letter in letters)))


def tag_indices(example: WordsExample, labels: Labels) -> list[int]:
    """Return the index of each tag of a sentence.

    Raises:
        CorpusError: training never saw a tag; the error names its line.
    """
    return [labels.index(tag, _place(example.where, number)) for number, tag in enumerate(example.tags or ())]


def _converted(example: WordsExample, scheme: Scheme) -> WordsExample:
    entities = entities_of(example.tags or ())
    return WordsExample(example.id, example.words, tags_of(entities, len(example.words), scheme), example.where)


def _column_sentences(
    location: str | PurePath, layout: WordsLayout, tagged: bool, encoding: str
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...] | None, str]]:
    path = task_file(location)
    word = _number(layout.word, 1, "word")
    tag = _number(layout.tag, -1, "tag")
    words: list[str] = []
    tags: list[str] = []
    first = 0
    with decoding.errors_named(path), decoding.open_bytes(path) as stream:
        for number, line in decoding.decoded_lines(path, stream, encoding):
            line = line.strip("\r\n\ufeff")
            if not line.strip(" \t") or is_document_mark(line):
                if words:
                    yield tuple(words), tuple(tags) or None, f"{path}, line {first}"
                words, tags = [], []
                continue
            cells = _cells(line, layout.separator)
            place = f"{path}, line {number}"
            if word > len(cells):
                raise CorpusError(
                    f"data: {place} has {counted(len(cells), 'column')}, and the word is in column {word}; give the "
                    "number of its column, or the separator of the columns"
                )
            has_tag = -len(cells) < tag < 0 or 0 < tag <= len(cells)
            if not has_tag and (tagged or tags):
                raise CorpusError(
                    f"data: {place} must have a tag for its word {cells[word - 1]!r}; add it, or give the number of "
                    "the column of tags, or the separator of the columns"
                )
            first = first if words else number
            words.append(cells[word - 1])
            if has_tag and (tags or len(words) == 1):
                tags.append(cells[tag if tag < 0 else tag - 1])
    if words:
        yield tuple(words), tuple(tags) or None, f"{path}, line {first}"


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is not None:
        return line.split(separator)
    return line.split("\t") if "\t" in line else _SPACES.split(line.strip(" "))


def _number(given: int | str | None, default: int, column: str) -> int:
    if given is None:
        return default
    if (isinstance(given, str) and not re.fullmatch("-?[0-9]+", given)) or int(given) == 0:
        raise CorpusError(
            f"data: the column of each {column} must be a number from 1 in a file of CoNLL columns, or from -1 for the "
            f"last, got {given!r}; give the number"
        )
    return int(given)


def _table_sentences(
    location: str | PurePath, layout: WordsLayout, tagged: bool, encoding: str
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...] | None, str]]:
    word, tag = str(layout.word or "tokens"), str(layout.tag or "ner_tags")
    for values, place in read_rows(location, lambda cells: True, encoding=encoding):
        words, tags = _texts(values.get(word)), _texts(values.get(tag))
        if words is None:
            raise CorpusError(
                f"data: {place} must have a list of words in column {word!r}, its columns are {', '.join(values)}; "
                "name the right column"
            )
        if (tags is None and tagged) or (tags is not None and len(tags) != len(words)):
            raise CorpusError(
                f"data: {place} must have a list of {len(words)} tags in column {tag!r}, one for each word; name the "
                "right column, or mend the list"
            )
        if words:
            yield words, tags, place


def _texts(value: Any) -> tuple[str, ...] | None:
    return tuple(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else None


def _tell_of_breaks(examples: Sequence[WordsExample], scheme: Scheme) -> None:
    broken = [(one, place) for one in examples if one.tags and (place := first_break(one.tags, scheme)) is not None]
    if broken:
        example, number = broken[0]
        tag = (example.tags or ())[number]
        _log.warning(
            f"data: sentences that break the scheme {scheme}: {len(broken):,} of {len(examples):,}, the first is "
            f"{_place(example.where, number)} with {tag}; an entity begins wherever one can, as in conlleval"
        )


def _place(where: str, number: int) -> str:
    """Return the place of a word of a sentence that begins at `where`."""
    before, mark, line = where.rpartition(", line ")
    return f"{before}{mark}{int(line) + number}" if mark else f"{where}, word {number + 1}"
