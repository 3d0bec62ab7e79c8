"""JSON: an object a line, or in `.json` also one array of objects or strings, or one object; the text is in a field.

Python's reader and the standard differ, and only the text field matters. Other fields may hold a number of any length,
NaN or Infinity. The text field must come once in an object and hold a string or null. JSON does not say which of two
values is valid, so a second one is refused. A line ends with LF, CR LF or CR, which no string may contain.

Lines are streamed. An array is in memory as a whole, with a few times the size of its file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import IO, Any

from unmask.data.text import decoding
from unmask.data.text.options import Cuts, ReadOptions, joined, missing_field
from unmask.data.text.remote import FilePath
from unmask.errors import CorpusError
from unmask.paths import as_typed

__all__ = ["json_value", "read_json", "read_json_lines", "read_objects"]

# Python refuses whole numbers of more than 4,300 digits; a float is quick to read and becomes infinite
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float)
_TYPES = {tuple: "an object", list: "an array", str: "a string", bool: "a boolean", float: "a number"}


def read_json_lines(path: FilePath, options: ReadOptions, cuts: Cuts) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each line."""
    with decoding.open_bytes(path) as stream:
        yield from _lines(path, decoding.decoded_lines(path, stream, options.encoding), options.fields)


def read_json(path: FilePath, options: ReadOptions, cuts: Cuts) -> Iterator[tuple[str, str]]:
    """Yield (text, `Document.origin`) for each item of an array, for one object, or for each line."""
    with decoding.open_bytes(path) as stream:
        lines, value = _lines_or_value(path, stream, options.encoding)
        if lines is not None:
            yield from _lines(path, lines, options.fields)
        else:
            yield from _items(path, [value] if isinstance(value, tuple) else value, options.fields)


def read_objects(path: FilePath, encoding: str = "utf-8") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place, "line 3" or "item 3", and the fields of each object of a file of JSON or of JSON lines.

    Raises:
        CorpusError: the file is no JSON, or holds something else than objects, or half a surrogate pair.
    """
    with decoding.open_bytes(path) as stream:
        lines, value = _lines_or_value(path, stream, encoding)
        if lines is not None:
            for number, row, line in _objects(path, lines):
                if "\\ud" in line or "\\uD" in line:
                    _refuse_surrogates(json.dumps(row, ensure_ascii=False), f"{path}:{number}")
                yield f"line {number}", _plain(row)
            return
        for number, row in enumerate([value] if isinstance(value, tuple) else value):
            if not isinstance(row, tuple):
                raise CorpusError(
                    f"corpus: {path}:item {number} must be a JSON object, got {_kind(row)}; make an array of objects "
                    "of it"
                )
            _refuse_surrogates(json.dumps(row, ensure_ascii=False), f"{path}:item {number}")
            yield f"item {number}", _plain(row)


def json_value(path: FilePath, encoding: str = "utf-8") -> Any:
    """Return the one value that a file of JSON holds, with objects as dictionaries.

    Raises:
        CorpusError: the file is no JSON, or holds half a surrogate pair.
    """
    with decoding.open_bytes(path) as stream:
        text = "".join(decoding.decoded_blocks(path, stream, encoding)).lstrip("\ufeff")
    value = _parsed(text, path)
    if "\\ud" in text or "\\uD" in text:
        _refuse_surrogates(json.dumps(value, ensure_ascii=False), str(path))
    return _plain(value)


def _lines_or_value(path: FilePath, stream: IO[bytes], encoding: str) -> tuple[Iterator[tuple[int, str]] | None, Any]:
    """Return the lines of a file with an object a line, or None and the one value of the file."""
    lines = ((number, line) for number, line in decoding.decoded_lines(path, stream, encoding))
    first = next(((number, line) for number, line in lines if line.strip("\ufeff \t\n")), None)
    if first is None:
        return iter(()), None
    if _is_whole(first[1]) and not first[1].lstrip("\ufeff").lstrip().startswith("["):
        return chain([first], lines), None
    # lines keep their numbers for messages
    whole = "\n" * (first[0] - 1) + first[1].lstrip("\ufeff") + "".join(line for _, line in lines)
    return None, _parsed(whole, path)


def _plain(value: Any) -> Any:
    """Return a value with objects as dictionaries, and with whole numbers as such."""
    if isinstance(value, tuple):
        return {name: _plain(held) for name, held in value}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_whole(line: str) -> bool:
    """Return whether a line is a whole value."""
    try:
        json.loads(line.removeprefix("\ufeff"), parse_int=float)
    except ValueError:
        return False
    except RecursionError:
        pass
    return True


def _lines(path: FilePath, lines: Iterator[tuple[int, str]], fields: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for number, row, line in _objects(path, lines):
        origin = f"{path}:{number}"
        text = _text(row, fields, origin, path)
        if "\\ud" in line or "\\uD" in line:
            _refuse_surrogates(text, origin)
        yield text, origin


def _objects(
    path: FilePath, lines: Iterator[tuple[int, str]]
) -> Iterator[tuple[int, tuple[tuple[str, Any], ...], str]]:
    """Yield the number of each line that is not blank, its object as pairs of names and values, and the line."""
    for number, line in lines:
        # a file that `cat` joined has a byte order mark for each part
        line = line.removeprefix("\ufeff")
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        row = _parsed_line(line, origin, path, is_first=number == 1)
        # an object is a tuple of pairs here, which shows a field that comes twice
        if not isinstance(row, tuple):
            way = f", for example with jq -c '.[]' {as_typed(path)}" if isinstance(row, list) else ""
            raise CorpusError(f"corpus: {origin} must be a JSON object, got {_kind(row)}; write one object a line{way}")
        yield number, row, line


def _items(path: FilePath, items: Sequence[Any], fields: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for number, item in enumerate(items):
        origin = f"{path}:item {number}"
        if item is not None and not isinstance(item, tuple | str):
            raise CorpusError(
                f"corpus: {origin} must be a JSON object or a string, got {_kind(item)}; make an "
                "array of objects or strings of it"
            )
        text = _text(item, fields, origin, path) if isinstance(item, tuple) else item or ""
        _refuse_surrogates(text, origin)
        yield text, origin


def _text(row: tuple[tuple[str, Any], ...], fields: tuple[str, ...], origin: str, path: FilePath) -> str:
    """Return the text of an object, given as pairs of names and values."""
    found = []
    for field in fields:
        texts = [value for name, value in row if name == field]
        if not texts:
            raise CorpusError(missing_field(origin, field, [name for name, _ in row]) + _inside(row, path))
        if len(texts) > 1:
            raise CorpusError(
                f"corpus: {origin} has the field {field!r} {len(texts)} times; keep the one that is the text"
            )
        if texts[0] is not None and not isinstance(texts[0], str):
            raise CorpusError(f"corpus: {origin}: field {field!r} must be a string, got {_kind(texts[0])}")
        found.append(texts[0])
    return joined(found)


def _inside(row: tuple[tuple[str, Any], ...], path: FilePath) -> str:
    """Return the clause that says how to reach objects in a field of an object, where there are some."""
    held = [name for name, value in row if isinstance(value, list) and any(isinstance(one, tuple) for one in value)]
    if not held:
        return ""
    inner = as_typed(f".[{json.dumps(held[0], ensure_ascii=False)}][]")
    lines = as_typed(f"{path}.lines.jsonl")
    return f"; for the objects in the field {held[0]!r}: jq -c {inner} {as_typed(path)} > {lines}"


def _kind(value: Any) -> str:
    return _TYPES.get(type(value), "null")


def _parsed_line(line: str, origin: str, path: FilePath, *, is_first: bool) -> Any:
    with _errors_of_depth(origin):
        try:
            return _DECODER.decode(line)
        except json.JSONDecodeError as error:
            known = decoding.other_format(line[:8].encode(), path) if is_first else ""
            way = known or "; write one object a line" + (_way_to_lines(path) if line.strip() in ("[", "{") else "")
            raise CorpusError(f"corpus: {origin} is not valid JSON ({error.msg}, column {error.colno}){way}") from None


def _parsed(text: str, path: FilePath) -> Any:
    with _errors_of_depth(str(path)):
        try:
            return _DECODER.decode(text)
        except json.JSONDecodeError as error:
            way = decoding.other_format(text[:8].encode(), path) or f"; write one object a line{_way_to_lines(path)}"
            place = f"line {error.lineno}, column {error.colno}"
            raise CorpusError(f"corpus: {path} is not valid JSON ({error.msg}, {place}){way}") from None


@contextmanager
def _errors_of_depth(origin: str) -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise CorpusError(
            f"corpus: {origin} is nested too deeply to be read, about a thousand levels; leave the field that is out"
        ) from None


def _way_to_lines(path: FilePath) -> str:
    file = as_typed(path)
    return f" (jq -c '.[]' {file} makes such lines of an array, jq -c . {file} of objects over several lines)"


def _refuse_surrogates(text: str, origin: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"corpus: {origin} holds half a surrogate pair ({text[error.start]!r}) at character "
            f"{error.start}, which is no Unicode text; write the whole pair"
        ) from None
