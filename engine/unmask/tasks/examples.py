"""The examples of fine-tuning, as the readers in `tasks/data` return them, and the names of labels.

    TextExample       a text or a pair, with a class, a number or several classes   classification, regression
    WordsExample      words with a tag each                                         entities
    QuestionExample   a question, its context and the answers in it                 qa

A label is a number here: the index of its name in `Labels`. `where` says where an example stands, "dev.tsv, line 12",
and every error about an example begins with it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from unmask.errors import CorpusError

__all__ = ["Answer", "Labels", "QuestionExample", "TextExample", "WordsExample", "listed"]

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text or a pair of texts.

    Attributes:
        id: as the file names it; else its number from 0.
        text: the text, or the first one of a pair.
        pair: the second text of a pair; None for a single text.
        label: index of its class; its number in a regression; indices of its classes, ascending, where there may be
            several; None in a file without labels.
        where: its file and line.
    """

    id: str
    text: str
    pair: str | None
    label: int | float | tuple[int, ...] | None
    where: str


@dataclass(frozen=True, slots=True)
class WordsExample:
    """A sentence as words.

    Attributes:
        id: number of the sentence in its file, from 0.
        words: its words.
        tags: a tag for each word, such as B-PER, in the scheme that the reader was asked for; None in a file without.
        where: its file and the line of its first word.
    """

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    where: str


class Answer(NamedTuple):
    """An answer to a question.

    Attributes:
        text: as the file gives it; scores compare with it.
        start: first character of the answer in its context; -1 if the context does not hold it.
        end: the character after its last one; -1 likewise.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class QuestionExample:
    """A question about a context.

    Attributes:
        id: as the file names it.
        question: the question.
        context: the text that holds the answer.
        answers: the answers that people gave; empty for a question without one, and in a file without answers.
        impossible: whether the file says that the context has no answer.
        where: its file and its place there.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    impossible: bool
    where: str


@dataclass(frozen=True, slots=True)
class Labels:
    """The names of the classes or tags of a task; the index of a name is the number of its output.

    Args:
        names: each once.
    Raises:
        ValueError: there is no name, or one comes twice.
    """

    names: tuple[str, ...]
    _indices: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = tuple(self.names)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_indices", {name: index for index, name in enumerate(names)})
        if not names or len(self._indices) < len(names):
            raise ValueError(f"labels: names must be different names, at least one, got {list(names)}")

    @classmethod
    def found_in(cls, names: Iterable[str]) -> Labels:
        """Return the labels of these names: in the order of their numbers if all are whole numbers, else sorted."""
        different = set(names)
        numbers = all(name.removeprefix("-").isdecimal() for name in different)
        return cls(tuple(sorted(different, key=lambda name: (int(name) if numbers else 0, name))))

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str, place: str) -> int:
        """Return the number of a name.

        Args:
            name: the name.
            place: file and line of the name, for the error.
        Raises:
            CorpusError: training never saw the name.
        """
        if name in self._indices:
            return self._indices[name]
        close = difflib.get_close_matches(name, self.names, n=1)
        nearest = f"; the nearest is {close[0]!r}" if close else ""
        raise CorpusError(
            f"data: {place} has the label {name!r}, which training never saw{nearest}; write one of "
            f"{listed(self.names)} there, or leave the line out"
        )


def listed(names: Sequence[str]) -> str:
    """Return names for a message, at most twenty of them."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
