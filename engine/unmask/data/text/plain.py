"""Plain text: the file is a document, or each block between blank lines, or each part from a heading to the next.

A heading is a line in which a regular expression is found. Headings with nothing between them open one document
together, so that no title stands alone. One document at a time is in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from unmask.data.text import decoding
from unmask.data.text.options import Cuts, ReadOptions
from unmask.data.text.remote import FilePath
from unmask.errors import CorpusError
from unmask.paths import as_typed

__all__ = ["read_plain"]

# a file of this many lines, all of them headings, is a list; fewer may be a title and a subtitle
_LIST = 10


def read_plain(path: FilePath, options: ReadOptions, cuts: Cuts) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each document of a text file; `cuts` notes whether it was cut."""
    with decoding.open_bytes(path) as stream:
        blocks = _checked(path, decoding.decoded_blocks(path, stream, options.encoding))
        if not options.cuts_text:
            yield "".join(blocks), str(path)
            return
        lines = decoding.text_lines(blocks)
        documents = _blocks(lines, cuts) if cuts.heading is None else _sections(path, lines, cuts, cuts.heading)
        for text, first in documents:
            yield text, f"{path}:{first}"


def _checked(path: FilePath, blocks: Iterator[str]) -> Iterator[str]:
    """Yield the blocks of a text; refuse CoNLL columns, whose tags nobody means to learn, and a PDF."""
    first = next(blocks, "")
    if first.startswith("%PDF-"):
        way = decoding.other_format(b"%PDF-", path)
        raise CorpusError(f"corpus: {path} is no text; leave it out, or make text of it{way}")
    if first.startswith("-DOCSTART-"):
        renamed = as_typed(f"{str(path).removesuffix(path.suffix)}.conll")
        raise CorpusError(
            f"corpus: {path} begins with -DOCSTART-, so it has CoNLL columns; give its name the suffix .conll: "
            f"mv {as_typed(path)} {renamed}"
        )
    yield first
    yield from blocks


def _blocks(lines: Iterator[tuple[int, str]], cuts: Cuts) -> Iterator[tuple[str, int]]:
    for blank, group in groupby(lines, key=lambda pair: not pair[1].strip()):
        if blank:
            cuts.found = True
        else:
            numbers, block = zip(*group, strict=True)
            yield "".join(block), numbers[0]


def _sections(
    path: FilePath, lines: Iterator[tuple[int, str]], cuts: Cuts, heading: re.Pattern[str]
) -> Iterator[tuple[str, int]]:
    section: list[str] = []
    first = 1
    has_text = has_heading = False
    for number, line in lines:
        if not heading.search(decoding.without_break(line)):
            has_text = has_text or not line.isspace()
        else:
            cuts.found = has_heading = True
            if has_text:
                yield "".join(section), first
                section, first, has_text = [], number, False
        section.append(line)
    if section:
        # a list, whose lines all open one document, and no title
        if first == 1 and not has_text and sum(not line.isspace() for line in section) >= _LIST:
            cuts.all_headings = path
        yield "".join(section), first
    if has_text and not has_heading:
        cuts.note_missed(path)
