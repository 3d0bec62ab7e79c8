"""The files of a Hugging Face tokenizer folder: `tokenizer.json`, `vocab.txt` and the settings beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.data.wordpiece import bert_pipeline
from unmask.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["SPECIAL_TOKENS", "load_backend", "load_vocabulary", "read_json", "special_tokens_of", "write_json"]

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def load_backend(path: Path) -> tokenizers.Tokenizer:
    """Reads a `tokenizer.json`."""
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_file(str(path))
    # the library raises plain Exception for whatever it cannot parse
    except Exception as error:
        raise TokenizerError(f"tokenizer: {path} cannot be read ({error})") from None


def load_vocabulary(path: Path, special_tokens: Mapping[str, str], config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Builds BERT's tokenizer around a `vocab.txt`, a token a line; the settings decide about case and accents."""
    try:
        tokens = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"tokenizer: {path} cannot be read ({error})") from None
    vocabulary = {token.rstrip("\r"): index for index, token in enumerate(tokens) if token.rstrip("\r")}
    for role, token in special_tokens.items():
        if token not in vocabulary:
            raise TokenizerError(f"tokenizer: {path} has no {role} token {token!r} among its {len(vocabulary)} tokens")
    return bert_pipeline(
        vocabulary,
        special_tokens,
        lowercase=bool(config.get("do_lower_case", True)),
        strip_accents=config.get("strip_accents"),
        chinese_characters=bool(config.get("tokenize_chinese_chars", True)),
    )


def special_tokens_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the token of each role that the settings name, else BERT's."""
    found = {}
    for role, default in SPECIAL_TOKENS.items():
        token = config.get(f"{role}_token") or default
        found[role] = str(token["content"] if isinstance(token, dict) else token)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; a file that is not there is empty."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"tokenizer: {path} cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"tokenizer: {path} must hold a JSON object")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object for people and `transformers` to read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
