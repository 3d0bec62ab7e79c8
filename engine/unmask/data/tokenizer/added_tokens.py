"""Tokens that a folder adds to its vocabulary. They are kept whole in a text, before any rule cuts it.

Four files may name them. All are read, and must agree on a token that several of them name:

    tokenizer.json           added_tokens, with ids and flags
    tokenizer_config.json    added_tokens_decoder, the same; additional_special_tokens, extra_special_tokens, and any
    special_tokens_map.json  other `..._token` than those of the five roles
    added_tokens.json        token: id; a token is special if another file says so

A token without an id that is not in the vocabulary gets the next id, as in `transformers`. Masking never chooses or
draws special tokens; others are words like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.data.tokenizer.bert import SPECIAL_TOKENS, content_of
from unmask.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["AddedToken", "add_tokens", "declared_tokens"]

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedToken:
    """A token that a file adds.

    Attributes:
        content: the token.
        index: its id; None for the next one.
        special: whether it is special.
        flags: single_word, lstrip, rstrip and normalized, as in `tokenizers`; None if the file does not say.
        where: the file that names it, for messages.
    """

    content: str
    index: int | None
    special: bool
    flags: Mapping[str, bool] | None
    where: str


def declared_tokens(
    folder: Path, config: Mapping[str, Any], named: Mapping[str, Any], ids: Mapping[str, Any]
) -> list[AddedToken]:
    """Return the tokens that the files beside `tokenizer.json` add, each once; those with ids come first, by id.

    `config` is `tokenizer_config.json`, `named` is `special_tokens_map.json`, `ids` is `added_tokens.json`.

    Raises:
        TokenizerError: an entry has no token or no id, or two files contradict each other.
    """
    merged: dict[str, AddedToken] = {}
    for token in (*_with_ids(folder, config, ids), *_named_special(folder, (config, named))):
        before = merged.get(token.content)
        merged[token.content] = token if before is None else _joined(before, token)
    last = float("inf")
    return sorted(merged.values(), key=lambda token: last if token.index is None else token.index)


def add_tokens(
    backend: tokenizers.Tokenizer, declared: Iterable[AddedToken], roles: Iterable[str], folder: Path
) -> tokenizers.Tokenizer:
    """Return the backend with the `declared` tokens added, and the tokens of the roles marked as special.

    Raises:
        TokenizerError: the id of a token is taken, leaves a gap, or is not the one in the vocabulary.
    """
    from tokenizers import Tokenizer as Backend

    description = json.loads(backend.to_str())
    vocabulary = backend.get_vocab()
    tokens = {index: token for token, index in vocabulary.items()}
    present = {token["content"]: dict(token) for token in description["added_tokens"]}
    special = dict.fromkeys(roles)
    following = max(tokens, default=-1) + 1
    for token in declared:
        content = token.content
        index = _place(token, vocabulary.get(content), tokens, following)
        vocabulary[content], tokens[index] = index, content
        following = max(following, index + 1)
        known = present.get(content)
        if known is None:
            flags = _flags(token.flags or {}, token.special)
            present[content] = {"id": index, "content": content, **flags, "special": token.special}
        elif token.flags is not None and content not in special and any(known[f] != token.flags[f] for f in _FLAGS):
            differing = next(flag for flag in _FLAGS if known[flag] != token.flags[flag])
            raise TokenizerError(
                f"tokenizer: {token.where} says {differing} {json.dumps(token.flags[differing])} of the added token "
                f"{content!r}, but tokenizer.json says {json.dumps(known[differing])}; make them agree"
            )
        elif token.special:
            known["special"] = True
    for content in special:
        if content in vocabulary:
            fresh = {"id": vocabulary[content], "content": content, **dict.fromkeys(_FLAGS, False), "special": True}
            present.setdefault(content, fresh)["special"] = True
    added = sorted(present.values(), key=lambda token: int(token["id"]))
    if added == description["added_tokens"]:
        return backend
    made = Backend.from_str(json.dumps(description | {"added_tokens": added}))
    for entry in added:
        # the library takes the number of tokens as the next id, which is wrong if the vocabulary has gaps
        if made.token_to_id(entry["content"]) != entry["id"]:
            raise TokenizerError(
                f"tokenizer: the added token {entry['content']!r} cannot have the id {entry['id']}: the ids of the "
                f"vocabulary of {folder} have gaps, from a blank line or a token that comes twice; give each id a "
                "token of its own, such as [unused7]"
            )
    return made


def _place(token: AddedToken, present: int | None, tokens: Mapping[int, str], following: int) -> int:
    wanted = token.index
    if wanted is None:
        return following if present is None else present
    if present is not None and present != wanted:
        raise TokenizerError(
            f"tokenizer: {token.where} gives the token {token.content!r} the id {wanted}, but it has the id {present} "
            "in the vocabulary; make them agree"
        )
    if tokens.get(wanted, token.content) != token.content:
        raise TokenizerError(
            f"tokenizer: {token.where} gives the token {token.content!r} the id {wanted}, which is that of "
            f"{tokens[wanted]!r}; number added tokens on from {following}"
        )
    if present is None and wanted != following:
        raise TokenizerError(
            f"tokenizer: {token.where} gives the token {token.content!r} the id {wanted}, but the next free id is "
            f"{following}; number added tokens on without a gap, or is a line of the vocabulary missing?"
        )
    return wanted


def _joined(one: AddedToken, other: AddedToken) -> AddedToken:
    if None not in (one.index, other.index) and one.index != other.index:
        raise TokenizerError(
            f"tokenizer: {one.where} gives the token {one.content!r} the id {one.index}, {other.where} the id "
            f"{other.index}; make them agree"
        )
    index = other.index if one.index is None else one.index
    flags = other.flags if one.flags is None else one.flags
    return replace(one, index=index, special=one.special or other.special, flags=flags)


def _with_ids(folder: Path, config: Mapping[str, Any], ids: Mapping[str, Any]) -> Iterator[AddedToken]:
    path = folder / "tokenizer_config.json"
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, Mapping):
        raise TokenizerError(f"tokenizer: added_tokens_decoder of {path} must be an object of ids and tokens")
    for key, entry in decoder.items():
        if not key.isdecimal() or not isinstance(entry, Mapping):
            raise TokenizerError(f"tokenizer: added_tokens_decoder of {path} must map ids to tokens, got {key!r}")
        content = content_of(entry, f"added_tokens_decoder {key}", path)
        special = bool(entry.get("special", False))
        flags = _flags(entry, special)
        yield AddedToken(content=content, index=int(key), special=special, flags=flags, where=str(path))
    path = folder / "added_tokens.json"
    for content, index in ids.items():
        if type(index) is not int or index < 0 or not content:
            raise TokenizerError(f"tokenizer: {path} must map tokens to ids, got {content!r}: {index!r}")
        yield AddedToken(content=content, index=index, special=False, flags=None, where=str(path))


def _named_special(folder: Path, files: Sequence[Mapping[str, Any]]) -> Iterator[AddedToken]:
    """Yield special tokens that settings name by a role or in a list, in the order of their ids in `transformers`."""
    merged = {key: token for settings in reversed(files) for key, token in settings.items()}
    first = {key: merged[key] for key in ("bos_token", "eos_token") if key in merged}
    for key, token in (first | merged).items():
        # add_bos_token is a flag and no token; the five roles are read elsewhere
        other = key.endswith("_token") and key.removesuffix("_token") not in SPECIAL_TOKENS
        if other and isinstance(token, (str, Mapping)):
            yield _special(token, key, folder)
    keys = ("additional_special_tokens", "extra_special_tokens")
    lists = [(key, settings[key]) for settings in files for key in keys if settings.get(key)]
    for key, listed in sorted(lists, key=lambda pair: not isinstance(pair[1], Mapping)):
        if not isinstance(listed, (list, Mapping)):
            raise TokenizerError(f"tokenizer: {key} of {folder} must be a list of tokens, got {listed!r}")
        for token in listed.values() if isinstance(listed, Mapping) else listed:
            yield _special(token, key, folder)


def _special(token: object, key: str, path: Path) -> AddedToken:
    flags = _flags(token, special=True) if isinstance(token, Mapping) else None
    return AddedToken(content=content_of(token, key, path), index=None, special=True, flags=flags, where=str(path))


def _flags(entry: Mapping[str, Any], special: bool) -> dict[str, bool]:
    defaults = dict.fromkeys(_FLAGS, False) | {"normalized": not special}
    return {flag: bool(entry.get(flag, default)) for flag, default in defaults.items()}
