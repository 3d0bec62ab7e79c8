"""Reads JSON lines: one object a line, the text of a document in one field, all else passed over.

Where Python's reader and the standard differ, what the field holds decides. A number of any length, NaN and Infinity
in other fields are read and forgotten. The field itself must come once a line and hold a string or null: JSON leaves
open which of two values holds, so a second one is refused rather than dropped. A line ends with LF, CR LF or CR, none
of which a string can hold as it is.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unmask.data.text.decoding import decoded_lines, open_bytes, other_format
from unmask.errors import CorpusError

__all__ = ["missing_field", "read_json_lines"]

# Python refuses whole numbers of more than 4,300 digits, which as a float are infinite and as quickly read
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float)


def read_json_lines(path: Path, text_field: str) -> Iterator[tuple[str, str]]:
    """Yields the text of each line, and where it is, as `Document.origin`; a null is an empty text."""
    with open_bytes(path) as stream:
        for number, line in decoded_lines(path, stream):
            # files that were joined by `cat` have a byte order mark each
            line = line.removeprefix("\ufeff")
            if not line.strip():
                continue
            origin = f"{path}:{number}"
            row = _parsed(line, origin)
            # objects come as tuples of pairs, so that a field given twice shows
            if not isinstance(row, tuple):
                way = ", for example with jq -c '.[]'" if isinstance(row, list) else ""
                raise CorpusError(
                    f"corpus: {origin} must be a JSON object, got {_json_type(row)}; write one object a line{way}"
                )
            texts = [value for name, value in row if name == text_field]
            if not texts:
                raise CorpusError(missing_field(origin, text_field, [name for name, _ in row]))
            if len(texts) > 1:
                raise CorpusError(
                    f"corpus: {origin} has the field {text_field!r} {len(texts)} times; keep the one that is the text"
                )
            text = "" if texts[0] is None else texts[0]
            if not isinstance(text, str):
                raise CorpusError(f"corpus: {origin}: field {text_field!r} must be a string, got {_json_type(text)}")
            if "\\ud" in line or "\\uD" in line:
                _refuse_surrogates(text, origin)
            yield text, origin


def missing_field(origin: str, text_field: str, fields: Iterable[str]) -> str:
    """Returns the message that a record without `text_field` deserves, with the nearest name it has."""
    names = [str(name) for name in fields]
    nearest = difflib.get_close_matches(text_field, names, n=1, cutoff=0.5)
    hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
    return (
        f"corpus: {origin} has no field {text_field!r}, its fields are {', '.join(names) or '(none)'}{hint}; name the "
        "one that holds the text with `unmask prepare --text-field`, or data.text_field of a run"
    )


def _parsed(line: str, origin: str) -> Any:
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        known = other_format(line[:8].encode())
        whole = " (jq -c '.[]' makes such lines of an array, jq -c . of objects over several lines)"
        way = known or ("; write one object a line" + (whole if line.strip() in ("[", "{") else ""))
        raise CorpusError(f"corpus: {origin} is not valid JSON ({error.msg}, column {error.colno}){way}") from None
    except RecursionError:
        raise CorpusError(
            f"corpus: {origin} is nested too deeply to be read, about a thousand levels; leave the field that is out"
        ) from None


def _refuse_surrogates(text: str, origin: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"corpus: {origin} holds half a surrogate pair ({text[error.start]!r}) at character "
            f"{error.start}, which is no Unicode text; write the whole pair"
        ) from None


def _json_type(value: Any) -> str:
    kinds = {
        tuple: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        float: "a number",
    }
    return kinds.get(type(value), "null")
