"""The files of a Hugging Face tokenizer folder, one at a time: `tokenizer.json`, `vocab.txt`, settings in JSON.

All are UTF-8, with or without a byte order mark. `vocab.txt` has a token a line, its id the number of the line; all
lines end in \\n or \\r\\n, or all in \\r. Blank lines at the end are none, another blank line is an id without a token,
spaces at the end of a line are no part of its token, and of a token that comes twice the last line counts, as in
`transformers`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["SPECIAL_TOKENS", "read_backend", "read_json", "read_vocabulary", "require_wordpiece", "write_json"]

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def read_backend(path: Path) -> tokenizers.Tokenizer:
    """Reads a `tokenizer.json`.

    Raises:
        TokenizerError: it cannot be read, two of its tokens have one id, or an added token cannot have the id it names.
    """
    from tokenizers import Tokenizer as Backend

    text = _read_text(path)
    try:
        backend = Backend.from_str(text)
        added = json.loads(text).get("added_tokens") or []
    # the library raises plain Exception for whatever it cannot parse
    except Exception as error:
        raise TokenizerError(f"tokenizer: {path} cannot be read ({error}); copy or download it again") from None
    vocabulary = backend.get_vocab()
    tokens = {index: token for token, index in vocabulary.items()}
    if len(tokens) != len(vocabulary):
        twice = next(token for token, index in vocabulary.items() if tokens[index] != token)
        raise TokenizerError(
            f"tokenizer: {path} gives the tokens {twice!r} and {tokens[vocabulary[twice]]!r} one id, "
            f"{vocabulary[twice]}; give each an id of its own"
        )
    for token in added:
        # the library numbers added tokens anew where their ids do not follow those of the vocabulary
        if vocabulary.get(token["content"]) != token["id"]:
            raise TokenizerError(
                f"tokenizer: {path} has the added token {token['content']!r} with the id {token['id']}, but its place "
                f"in the vocabulary is {vocabulary.get(token['content'])}; number added tokens on from the last id of "
                "the vocabulary, without a gap, and list them in this order"
            )
    return backend


def require_wordpiece(backend: tokenizers.Tokenizer, where: str = "") -> None:
    """Refuse a tokenizer of another model; `where` is the file that holds it."""
    from tokenizers import models

    if not isinstance(backend.model, models.WordPiece):
        place = f"{where}: " if where else ""
        raise TokenizerError(
            f"tokenizer: {place}WordPiece is needed, got {type(backend.model).__name__}; leave "
            "the tokenizer out to train one, or write a store of ready tokens with unmask.data.store.write_store"
        )


def read_vocabulary(path: Path) -> dict[str, int]:
    """Reads a `vocab.txt`: token to id.

    Raises:
        TokenizerError: it cannot be read, or a line has a carriage return inside.
    """
    text = _read_text(path)
    lines = text.split("\n") if "\n" in text else text.split("\r")
    vocabulary: dict[str, int] = {}
    for index, line in enumerate(lines):
        token = line.removesuffix("\r")
        if "\r" in token:
            raise TokenizerError(
                f"tokenizer: {path}, line {index + 1}, has a carriage return inside, which ends a line for some "
                "programs and not for others, so ids would differ; end every line the same way"
            )
        token = token.rstrip() or token
        if token:
            vocabulary[token] = index
    return vocabulary


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; a file that is not there is empty."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
        # half a surrogate pair, as an escape, is no text that a tokenizer or a file can hold
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"tokenizer: {path} cannot be read ({error}); copy or download it again") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"tokenizer: {path} must hold a JSON object")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object for people and `transformers` to read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"tokenizer: {path} cannot be read ({error}); copy or download it again") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise TokenizerError(f"tokenizer: {path} cannot be read: it is UTF-16; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TokenizerError(
            f"tokenizer: {path} cannot be read: line {line} is not UTF-8 (byte 0x{raw[error.start]:02x}); save it as "
            "UTF-8"
        ) from None
