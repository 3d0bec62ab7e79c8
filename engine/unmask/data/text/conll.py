"""CoNLL columns: a word a line, blank lines between sentences. Only the words are read, and joined into text.

    .conll     the word is the first column (CoNLL-2003); columns are separated by tabs or spaces
    .conllu    the word is the second column, FORM; lines that begin with `#` are comments (Universal Dependencies)

`text_field` gives another column by its number, from 1. A document begins at `-DOCSTART-`, at `#begin document` and, in
`.conllu`, at `# newdoc`; a file without such a line is one document. With `blank_line_documents` each sentence is one.

A space stands between two words, except between Chinese or Japanese characters, and where `.conllu` says
`SpaceAfter=No`. Of a contraction such as `1-2 du`, `.conllu` lists the parts too: the contraction is read, the parts
and empty nodes such as `8.1` are not. A blank line stands between two sentences, so each stays one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from unmask.data.text import decoding
from unmask.data.text.options import Cuts, ReadOptions
from unmask.data.text.remote import FilePath
from unmask.errors import CorpusError

__all__ = ["is_document_mark", "read_conll", "read_conllu"]

_OPENS = re.compile(r"-DOCSTART-|#\s*begin document\b")
_OPENS_UNIVERSAL = re.compile(r"#\s*newdoc\b")
_ENDS = re.compile(r"#\s*end document\b")
_UNSPACED = re.compile("[\u2e80-\u312f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_UNIVERSAL_COLUMNS = 10


def read_conll(path: FilePath, options: ReadOptions, cuts: Cuts) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each document of a `.conll`."""
    return _read(path, options, cuts, 1, universal=False)


def read_conllu(path: FilePath, options: ReadOptions, cuts: Cuts) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each document of a `.conllu`."""
    return _read(path, options, cuts, 2, universal=True)


def is_document_mark(line: str) -> bool:
    """Return whether a line of a `.conll` opens or ends a document, and holds no word."""
    return bool(_OPENS.match(line) or _ENDS.match(line))


@dataclass(slots=True)
class _Sentence:
    """The words of a sentence, joined as they come."""

    text: list[str] = field(default_factory=list)
    space: bool = False
    until: int = 0
    """The last word of a contraction that was read."""

    def add(self, cells: list[str], column: int, universal: bool) -> None:
        word, space_after = cells[column - 1], True
        if universal:
            first, dash, last = cells[0].partition("-")
            if "." in cells[0] or (not dash and first.isdigit() and int(first) <= self.until):
                return
            if dash and last.isdigit():
                self.until = int(last)
            space_after = len(cells) < _UNIVERSAL_COLUMNS or "SpaceAfter=No" not in cells[9].split("|")
        elif self.text and _UNSPACED.match(word) and _UNSPACED.match(self.text[-1][-1:]):
            self.space = False
        self.text.extend([" "] * self.space + [word])
        self.space = space_after


def _read(
    path: FilePath, options: ReadOptions, cuts: Cuts, column: int, *, universal: bool
) -> Iterator[tuple[str, str]]:
    column = _column(path, options, column)
    sentences: list[str] = []
    sentence = _Sentence()
    first = 0
    with decoding.open_bytes(path) as stream:
        for number, line in decoding.decoded_lines(path, stream, options.encoding):
            line = line.strip("\r\n\ufeff")
            opens = bool(_OPENS.match(line) or (universal and _OPENS_UNIVERSAL.match(line)))
            if opens or not line.strip():
                cuts.found = cuts.found or bool(sentence.text)
                sentence = _ended(sentence, sentences)
                if sentences and (opens or options.blank_line_documents):
                    yield "\n\n".join(sentences), f"{path}:{first}"
                    sentences = []
            elif not (_ENDS.match(line) or (universal and line.startswith("#"))):
                cells = line.split("\t") if "\t" in line else line.split()
                if len(cells) < column:
                    raise CorpusError(
                        f"corpus: {path}:{number} has {len(cells)} columns, and the word is in column {column}; give "
                        "the number of its column with --text-field (data.text_field of a run)"
                    )
                first = first if sentences or sentence.text else number
                sentence.add(cells, column, universal)
    _ended(sentence, sentences)
    if sentences:
        yield "\n\n".join(sentences), f"{path}:{first}"


def _ended(sentence: _Sentence, sentences: list[str]) -> _Sentence:
    """Add the sentence to those of its document, and return an empty one."""
    if sentence.text:
        sentences.append("".join(sentence.text))
    return _Sentence()


def _column(path: FilePath, options: ReadOptions, default: int) -> int:
    if options.text_field == ReadOptions().text_field:
        return default
    columns = options.columns
    if columns is None or len(columns) > 1:
        raise CorpusError(
            f"corpus: {path} has columns without names, so text_field must be the number of the column with the words, "
            f"got {options.text_field!r}; leave it out for column {default}"
        )
    return columns[0]
