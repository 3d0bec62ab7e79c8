"""Warnings about the documents of a new store: a text file that nobody cut, and a column that holds no text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from unmask.config.settings import counted
from unmask.data.store import Store
from unmask.data.text import decoding
from unmask.data.text.options import ReadOptions
from unmask.data.text.readers import format_of, suffix_of
from unmask.data.text.remote import FilePath
from unmask.paths import as_typed, printable

__all__ = ["warn_of_documents"]

_log = logging.getLogger(__name__)

_FEW_DOCUMENTS = 10
_MANY_LINES = 50
_BLOCK_BYTES = 1 << 20
_SAMPLED_DOCUMENTS = 1000
_SAMPLED_TOKENS = 16
# words of a document on average, at most, in a column of ids
_WORDS_OF_IDS = 1.1


def warn_of_documents(store: Store, files: Sequence[FilePath], options: ReadOptions) -> None:
    """Warn if a store has few documents, one of them a text file of many lines, or documents of one word each.

    Args:
        store: the new store.
        files: the files that were read for it.
        options: how they were read.
    """
    if store.num_documents < _FEW_DOCUMENTS:
        if not options.cuts_text:
            _warn_of_uncut(store.num_documents, files, options)
    elif any(format_of(path).text_field for path in files) and _is_of_single_words(store):
        _log.warning(
            f"corpus: nearly all of the {store.num_documents:,} documents have one word; if --text-field names a "
            "column of ids or labels, name that of the text"
        )


def _warn_of_uncut(documents: int, files: Sequence[FilePath], options: ReadOptions) -> None:
    texts = [path for path in files if isinstance(path, Path) and format_of(path).split_at]
    # the others are empty
    lengths = [(*_lines(path), path) for path in texts[:_FEW_DOCUMENTS]]
    lines, blank, path = max(lengths, default=(0, False, Path()))
    if lines < _MANY_LINES:
        return
    has = counted(documents, "document")
    ways = "--split-at or --blank-line-documents" if blank else "--split-at"
    each = ""
    if options.encoding == ReadOptions().encoding:
        each = f"; where each line is a document, give JSON lines as the input: {_json_lines(path)}"
    _log.warning(
        f"corpus: the store has {has}, and {printable(str(path))} with {lines:,} lines is one; cut it with {ways}{each}"
    )


def _lines(path: Path) -> tuple[int, bool]:
    """Return how many lines a file has, and whether some are blank."""
    lines, blank = 0, False
    # the store is whole already: a file that is gone by now spoils nothing
    with suppress(OSError), decoding.open_bytes(path) as stream:
        for block in iter(partial(stream.read, _BLOCK_BYTES), b""):
            lines += block.count(b"\n")
            blank = blank or b"\n\n" in block or b"\n\r\n" in block
    return lines, blank


def _json_lines(path: Path) -> str:
    """Return the command that makes a JSON object of each line."""
    program = {".gz": "gzip", ".zst": "zstd"}.get(decoding.compression_of(path))
    typed = printable(as_typed(path))
    suffix = suffix_of(path) or ""
    made = printable(as_typed(path.with_name(f"{path.name[: -len(suffix)]}.jsonl")))
    read = f"jq -cR '{{text: .}}' {typed}" if program is None else f"{program} -dc {typed} | jq -cR '{{text: .}}'"
    return f"{read} > {made}"


def _is_of_single_words(store: Store) -> bool:
    """Return whether nearly all documents, as far as a sample of the first ones shows, have a single word."""
    rows = np.arange(min(store.num_documents, _SAMPLED_DOCUMENTS))
    _, words = store.gather(rows, np.zeros(len(rows), np.int64), np.minimum(store.lengths[rows], _SAMPLED_TOKENS))
    return int(words.sum()) <= _WORDS_OF_IDS * len(rows)
