"""A Hugging Face tokenizer folder: read, and written so that `transformers` gives the same ids.

Each setting in a folder is followed, or refused by its name (`bert.py`, `added_tokens.py`). All files are UTF-8, with
or without a byte order mark. `vocab.txt` has a token a line; the number of the line is its id:

    line ends           all \\n or \\r\\n, or all \\r
    a blank line        an id without a token; none at the end of the file
    spaces at the end   no part of the token
    a token twice       its last line counts, as in `transformers`

`transformers` 5 builds a `BertTokenizer` anew from the vocabulary and the settings, and ignores the rest of
`tokenizer.json`. So a folder written here names that class only if both give the same tokenizer, and else
`PreTrainedTokenizerFast`, which takes `tokenizer.json` as it is.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.data.tokenizer import bert
from unmask.data.tokenizer.added_tokens import add_tokens, declared_tokens
from unmask.data.tokenizer.case import case_of_vocabulary, require_case, warn_of_capitals
from unmask.data.tokenizer.find_tokenizer import find_tokenizer, no_tokenizer
from unmask.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["TokenizerFolder", "case_is_open", "read_folder", "write_folder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerFolder:
    """The contents of a folder.

    Attributes:
        path: the folder.
        backend: the tokenizer.
        special_tokens: the token of each of the roles pad, unk, cls, sep, mask.
        max_length: maximum length of a sequence of its model; 512 if the folder does not say.
    """

    path: Path
    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str]
    max_length: int


def case_is_open(given: Path) -> bool:
    """Return whether no file decides about case, so that the option `lowercase` does; `given` as of `read_folder`."""
    given = _found(given)
    whole, _ = _whole_and_vocabulary(given)
    return whole is None and "do_lower_case" not in _read_json(_folder_of(given) / "tokenizer_config.json")


def _found(given: Path) -> Path:
    """Return a folder or file of a tokenizer as it is; look elsewhere for any other."""
    there = given.is_file() or any((given / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    return given if there else find_tokenizer(given)


def read_folder(given: Path, lowercase: bool | None = None) -> TokenizerFolder:
    """Read a folder; `given` is the folder, a `tokenizer.json` or vocabulary in it, or as of `find_tokenizer`.

    `lowercase` says whether to drop case. It decides for a bare vocabulary (`case.py`); other files must agree with it.

    Raises:
        TokenizerError: there is nothing to read, a file is damaged, a setting is not supported here, or `lowercase`
            contradicts the folder.
    """
    given = _found(given)
    folder = _folder_of(given)
    whole, vocabulary = _whole_and_vocabulary(given)
    config = _read_json(folder / "tokenizer_config.json")
    named = _read_json(folder / "special_tokens_map.json")
    if whole is None and not vocabulary.is_file():
        raise TokenizerError(no_tokenizer(folder))
    if whole is not None:
        # checked first: no setting makes another model fit
        backend = _read_backend(whole)
        bert.require_tokenizer_model(backend, str(whole))
    name = str(config.get("tokenizer_class") or _class_beside_the_model(folder) or "")
    bert.require_class(name, config, folder, whole=whole is not None)
    special_tokens = bert.roles_of(name, config, named, folder)
    declared = declared_tokens(folder, config, named, _read_json(folder / "added_tokens.json"))
    if whole is not None:
        description = json.loads(backend.to_str())
        bert.require_agreement(config, folder, backend, description)
        drops = bert.drops_case(backend)
        if lowercase is not None:
            require_case(lowercase, drops, f"{whole} {'drops' if drops else 'keeps'} case")
        if given == folder:
            _require_same(vocabulary, whole, backend, description)
        basic = (description["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
    else:
        added = {token.content for token in declared if token.index is not None}
        settings = bert.pipeline_settings(config, folder)
        if (said := settings["lowercase"]) is not None and lowercase is not None:
            where = folder / "tokenizer_config.json"
            require_case(lowercase, said, f"{where} says do_lower_case {json.dumps(said)}")
        backend = _around(vocabulary, special_tokens, added, settings, lowercase)
        basic = True
    backend = add_tokens(backend, declared, special_tokens.values(), folder)
    kept = {token["content"]: token["special"] for token in json.loads(backend.to_str())["added_tokens"]}
    others = [token for token, special in kept.items() if special and token not in special_tokens.values()]
    bert.require_plain(config, folder, kept, others, basic=basic)
    max_length = config.get("model_max_length", 512)
    # transformers writes 1e30 for no limit
    if not isinstance(max_length, int) or not 0 < max_length < 1 << 31:
        max_length = 512
    return TokenizerFolder(path=folder, backend=backend, special_tokens=special_tokens, max_length=max_length)


def write_folder(
    folder: Path, backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str], *, max_length: int
) -> None:
    """Write `tokenizer.json`, `vocab.txt`, `tokenizer_config.json` and `special_tokens_map.json`.

    There is no `vocab.txt` if a token holds a line break, or beside a model that is not WordPiece.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = json.loads(backend.to_str())
    names = {f"{role}_token": token for role, token in special_tokens.items()}
    config: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer" if _is_rebuilt(description, special_tokens) else "PreTrainedTokenizerFast"
    }
    normalizer = description["normalizer"] or {}
    if normalizer.get("type") == "BertNormalizer":
        config["do_lower_case"] = normalizer["lowercase"]
        config["strip_accents"] = normalizer["strip_accents"]
        config["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    config["model_max_length"] = max_length
    roles = set(special_tokens.values())
    special = [token["content"] for token in description["added_tokens"] if token["special"]]
    if config["tokenizer_class"] != "BertTokenizer":
        # the default of BERT's class only
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    if not roles.issuperset(special):
        # transformers 5 reads this name too; extra_special_tokens means something else in version 4
        config["additional_special_tokens"] = [token for token in special if token not in roles]
    _write_json(folder / "tokenizer_config.json", config | names)
    _write_json(folder / "special_tokens_map.json", names)
    tokens = {index: token for token, index in backend.get_vocab().items()}
    (folder / "vocab.txt").unlink(missing_ok=True)
    lines = [tokens.get(index) or f"[unused{index}]" for index in range(max(tokens) + 1)]
    if description["model"]["type"] == "WordPiece" and not any("\n" in token or "\r" in token for token in lines):
        text = "".join(f"{token}\n" for token in lines)
        (folder / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")
    # the library has no error of its own for a full disk
    (folder / "tokenizer.json").write_text(backend.to_str(pretty=True), encoding="utf-8", newline="\n")


def _folder_of(given: Path) -> Path:
    return given.parent if given.is_file() else given


def _whole_and_vocabulary(given: Path) -> tuple[Path | None, Path]:
    """Return the `tokenizer.json` to read, None if a vocabulary is named or there is none, and the vocabulary."""
    if given.is_file() and given.suffix != ".json":
        return None, given
    folder = _folder_of(given)
    whole = folder / "tokenizer.json" if given == folder else given
    return (whole if whole.is_file() else None), folder / "vocab.txt"


def _require_same(vocabulary: Path, whole: Path, backend: tokenizers.Tokenizer, description: Mapping[str, Any]) -> None:
    """Refuse a `vocab.txt` that gives a word another id than the `tokenizer.json` beside it: one of them is stale."""
    try:
        lines = _read_vocabulary(vocabulary)
    except TokenizerError:
        # there is none, or none that a program reads
        return
    ids = backend.get_vocab()
    added = {token["id"] for token in description["added_tokens"]}
    for token, index in lines.items():
        other = ids.get(token, index)
        if other != index and index not in added and not any(map(str.isspace, token)):
            raise TokenizerError(
                f"tokenizer: {vocabulary} gives {token!r} the id {index}, but {whole.name} beside it {other}; remove "
                "the one that is wrong"
            )


def _class_beside_the_model(folder: Path) -> object:
    """Return the class that `config.json` names, as in the folders of Japanese models."""
    try:
        return _read_json(folder / "config.json").get("tokenizer_class")
    except TokenizerError:
        # its error is raised when the model is read
        return None


def _around(
    path: Path,
    special_tokens: Mapping[str, str],
    added: Collection[str],
    settings: Mapping[str, Any],
    lowercase: bool | None,
) -> tokenizers.Tokenizer:
    """Return BERT's tokenizer around a vocabulary, which may lack the tokens that another file adds."""
    vocabulary = _read_vocabulary(path)
    for role, token in special_tokens.items():
        if token not in vocabulary and (role == "unk" or token not in added):
            raise TokenizerError(
                f"tokenizer: {path} has no {role} token {token!r} among its {len(vocabulary)} tokens; add it, or name "
                "the one that it has in tokenizer_config.json"
            )
    drops = settings["lowercase"]
    if drops is None:
        ordinary = [token for token in vocabulary if token not in special_tokens.values()]
        drops = case_of_vocabulary(ordinary, path) if lowercase is None else lowercase
        if lowercase:
            warn_of_capitals(ordinary, path)
    return bert.bert_pipeline(vocabulary, special_tokens, **{**settings, "lowercase": drops})


def _is_rebuilt(description: Mapping[str, Any], special_tokens: Mapping[str, str]) -> bool:
    """Return whether BERT's pipeline, with the vocabulary and the settings of the normalizer, is the same tokenizer."""
    normalizer = description["normalizer"] or {}
    if normalizer.get("type") != "BertNormalizer":
        return False
    ids = {token["content"]: token["id"] for token in description["added_tokens"]}
    if ids.keys() != set(special_tokens.values()):
        return False
    pipeline = bert.bert_pipeline(
        ids,
        special_tokens,
        lowercase=normalizer["lowercase"],
        strip_accents=normalizer["strip_accents"],
        chinese_characters=normalizer["handle_chinese_chars"],
    )

    def compared(one: Mapping[str, Any]) -> list[Any]:
        added = sorted(one["added_tokens"], key=lambda token: str(token["content"]))
        return [one["normalizer"], one["pre_tokenizer"], one["decoder"], one["model"] | {"vocab": None}, added]

    return compared(description) == compared(json.loads(pipeline.to_str()))


def _read_backend(path: Path) -> tokenizers.Tokenizer:
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
        # the library gives added tokens new ids if theirs do not follow those of the vocabulary
        if vocabulary.get(token["content"]) != token["id"]:
            raise TokenizerError(
                f"tokenizer: {path} has the added token {token['content']!r} with the id {token['id']}, but its place "
                f"in the vocabulary is {vocabulary.get(token['content'])}; number added tokens on from the last id of "
                "the vocabulary, without a gap, and list them in this order"
            )
    return backend


def _read_vocabulary(path: Path) -> dict[str, int]:
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


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that does not exist is empty."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
        # no tokenizer or file can hold half a surrogate pair, which JSON may escape
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"tokenizer: {path} cannot be read ({error}); copy or download it again") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"tokenizer: {path} must hold a JSON object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
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
