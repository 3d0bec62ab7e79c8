"""The kind of a folder, told by what its files hold: anybody may have a `manifest.json` or a `config.yaml`.

    token store        manifest.json with the keys of a store
    unfinished store   unfinished.json, or our shards without a manifest: a store that is being made, was stopped, or
                       is a part of one
    saved data set     dataset_dict.json or state.json, as `save_to_disk` of `datasets` writes them
    run                config.yaml with the groups of a run's configuration
    fine-tuning run    finetune.yaml
    model              config.json with an architecture; a checkpoint is one
    tokenizer          tokenizer.json, tokenizer_config.json or special_tokens_map.json with the keys of one

A damaged file still counts if files that belong to it lie beside it (shards, arrow files), so that whoever opens the
folder finds and names the damage. The configuration asks here too, so only the standard library is imported.
"""

import contextlib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

__all__ = ["FINETUNE", "MANIFEST", "Kind", "is_store", "is_vocabulary", "kind_of"]

Kind = Literal["token store", "unfinished store", "saved data set", "run", "fine-tuning run", "model", "tokenizer"]

MANIFEST = "manifest.json"
"""The file that makes a folder a token store."""

FINETUNE = "finetune.yaml"
"""The settings of a fine-tuning run, which make a folder one."""

_STORE = frozenset({"schema_version", "tokenizer_hash", "special_ids", "sources", "shards"})
_TOKENIZER = frozenset({"tokenizer_class", "do_lower_case", "model_max_length", "cls_token", "mask_token", "unk_token"})
_GROUPS = frozenset({"data", "model", "objective", "train", "kernels"})
_SHARD = re.compile(r"shard-\d+\.arrow")
# in the metadata at the start of a shard
_SHARD_MARK = b"unmask.schema_version"
_SHARDS_TRIED = 3
_HEAD_BYTES = 4096
_GROUP = re.compile(r"^([a-z]+):", re.MULTILINE)
# neither we nor the libraries write a larger file, but a folder of text may hold one
_LARGEST_BYTES = 1 << 28
_SPECIALS_WITHIN_BYTES = 1 << 16


def is_store(folder: Path) -> bool:
    """Return whether this is a token store, whole or damaged."""
    return kind_of(folder) == "token store"


def is_vocabulary(file: Path) -> bool:
    """Return whether this is the `vocab.txt` of a BERT tokenizer, and not a text of that name."""
    if file.name.lower() != "vocab.txt":
        return False
    return {b"[UNK]", b"[CLS]"} <= {line.strip() for line in _head(file, _SPECIALS_WITHIN_BYTES).split(b"\n")}


def kind_of(folder: Path, names: Collection[str] | None = None) -> Kind | None:
    """Return the kind of a folder; None for another folder, which may hold text.

    Args:
        folder: the folder; one that does not exist has no kind.
        names: the names in it, if they are known already.
    """
    if names is None:
        try:
            names = [path.name for path in folder.iterdir()]
        except OSError:
            return None
    if MANIFEST in names and len(_keys(folder / MANIFEST) & _STORE) > 1:
        return "token store"
    if _has_shard(folder, names):
        return "token store" if MANIFEST in names else "unfinished store"
    if "unfinished.json" in names and {"settings", "shards"} <= _keys(folder / "unfinished.json"):
        return "unfinished store"
    if "lock" in names and "tokenizer" in names and folder.name.endswith(".partial"):
        return "unfinished store"
    if _is_saved(folder, names):
        return "saved data set"
    if "config.yaml" in names and set(_GROUP.findall(_text(folder / "config.yaml"))) >= _GROUPS:
        return "run"
    if FINETUNE in names:
        return "fine-tuning run"
    if "config.json" in names and _keys(folder / "config.json") & {"model_type", "architectures"}:
        return "model"
    return "tokenizer" if _is_tokenizer(folder, names) else None


def _head(file: Path, size: int) -> bytes:
    with file.open("rb") as stream:
        return stream.read(size)


def _has_shard(folder: Path, names: Collection[str]) -> bool:
    for name in sorted(filter(_SHARD.fullmatch, names))[:_SHARDS_TRIED]:
        shard = folder / name
        with contextlib.suppress(OSError):
            if shard.is_file() and _SHARD_MARK in _head(shard, _HEAD_BYTES):
                return True
    return False


def _is_saved(folder: Path, names: Collection[str]) -> bool:
    for mark, key in (("dataset_dict.json", "splits"), ("state.json", "_data_files")):
        if mark in names:
            value = _json(folder / mark)
            damaged = value is None and any(name.endswith(".arrow") for name in names)
            if damaged or (isinstance(value, dict) and isinstance(value.get(key), list)):
                return True
    return False


def _is_tokenizer(folder: Path, names: Collection[str]) -> bool:
    marks = {
        "tokenizer_config.json": _TOKENIZER,
        "special_tokens_map.json": _TOKENIZER,
        "tokenizer.json": {"added_tokens", "pre_tokenizer", "normalizer"},
    }
    return any(mark in names and _keys(folder / mark) & keys for mark, keys in marks.items())


def _keys(file: Path) -> set[str]:
    value = _json(file)
    return set(value) if isinstance(value, dict) else set()


def _json(file: Path) -> Any:
    """Return the contents of a JSON file, or None if it is no JSON."""
    try:
        return json.loads(_text(file))
    except (ValueError, RecursionError):
        return None


def _text(file: Path) -> str:
    """Return the text of a file; empty if it is no file, cannot be read or is larger than any of ours."""
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST_BYTES:
            return ""
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
