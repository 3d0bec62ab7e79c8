"""The manifest of a token store, `manifest.json`: what the folder must hold, so that damage is found before training.

A store is a folder:

    manifest.json          format version, counts, sources, special ids, tokenizer hash; size and SHA-256 of each shard
    shard-00000.arrow ...  Arrow IPC files, a row per document (`writer.py` has the columns)
    tokenizer/             the tokenizer, if `prepare` made the store
    index/                 made from the shards, and no part of the contents (`index.py`)

The manifest is written last, and then the folder is renamed, so a store that exists is whole. The manifest holds no
time and no path: the same text and tokenizer give the same manifest, and the `fingerprint` names the contents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from unmask.config.settings import counted
from unmask.errors import StoreError
from unmask.folders import MANIFEST, is_store
from unmask.paths import as_typed

if TYPE_CHECKING:
    from unmask.data.tokenizer import Tokenizer

__all__ = [
    "SCHEMA_VERSION",
    "Manifest",
    "ShardEntry",
    "SourceEntry",
    "StoreHead",
    "check_shards",
    "fingerprint",
    "make_manifest",
    "parse_manifest",
    "read_manifest",
    "require_documents",
]

SCHEMA_VERSION = 1
ROLES = ("pad", "unk", "cls", "sep", "mask")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreHead:
    """What made the ids and word starts of a store; only stores with the same head can be joined.

    Attributes:
        tokenizer_hash: `Tokenizer.hash`.
        vocab_size: all ids are below it.
        special_ids: ids of pad, unk, cls, sep, mask.
        segmenter: `Segmenter.label` of the segmenter that joined ideographs to words; "" for none.
        added_special_ids: ids of other special tokens, which masking never chooses either.
    """

    tokenizer_hash: str
    vocab_size: int
    special_ids: Mapping[str, int]
    segmenter: str = ""
    added_special_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        if set(self.special_ids) != set(ROLES):
            raise ValueError(f"store: special_ids must name {', '.join(ROLES)}, got {', '.join(self.special_ids)}")

    @classmethod
    def of(cls, tokenizer: Tokenizer, segmenter: str = "") -> StoreHead:
        """Return the head of a store whose ids `tokenizer` made."""
        return cls(
            tokenizer_hash=tokenizer.hash,
            vocab_size=tokenizer.vocab_size,
            special_ids=tokenizer.special_ids,
            segmenter=segmenter,
            added_special_ids=tokenizer.added_special_ids,
        )


class SourceEntry(TypedDict):
    """A source with its numbers of documents and tokens; the column `source` holds its position in the list."""

    name: str
    documents: int
    tokens: int


class ShardEntry(TypedDict):
    """A shard: file name, rows, tokens, bytes on disk and their SHA-256."""

    file: str
    documents: int
    tokens: int
    bytes: int
    sha256: str


class _Optional(TypedDict, total=False):
    segmenter: str  # as in StoreHead; missing in stores of early versions
    added_special_ids: list[int]  # as in StoreHead; only if there are any


class Manifest(_Optional):
    """The contents of `manifest.json`; `summary` holds what the writer of the store likes (`summary.py`)."""

    schema_version: int
    documents: int
    tokens: int
    vocab_size: int
    tokenizer_hash: str
    special_ids: dict[str, int]
    sources: list[SourceEntry]
    shards: list[ShardEntry]
    summary: dict[str, Any]


def make_manifest(
    head: StoreHead, sources: Sequence[SourceEntry], shards: Sequence[ShardEntry], summary: Mapping[str, Any]
) -> Manifest:
    """Return the manifest of a whole store."""
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        documents=sum(shard["documents"] for shard in shards),
        tokens=sum(shard["tokens"] for shard in shards),
        vocab_size=head.vocab_size,
        tokenizer_hash=head.tokenizer_hash,
        special_ids=dict(head.special_ids),
        segmenter=head.segmenter,
        sources=list(sources),
        shards=list(shards),
        summary=dict(summary),
    )
    if head.added_special_ids:
        manifest["added_special_ids"] = list(head.added_special_ids)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`.

    Raises:
        StoreError: there is no store, or its manifest is damaged or of a newer format.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if folder.is_file():
            raise StoreError(
                f"store: {folder} is a file, not the folder of a store; give text with data.input, or make a store of "
                f"it with unmask prepare --input {as_typed(folder)} --out store"
            ) from None
        what = "is no token store (it has no manifest.json)" if folder.is_dir() else "does not exist"
        partial = folder.with_name(f"{folder.name}.partial")
        if partial.is_dir() and not folder.exists():
            raise StoreError(
                f"store: {folder} is not finished; run the unmask prepare that began {partial} again, which goes on "
                "with it"
            ) from None
        raise StoreError(
            f"store: {folder} {what}; give the folder of a store, or make one with unmask prepare --out "
            f"{as_typed(folder)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"store: {path} cannot be read ({error}); make it readable, or prepare the store again"
        ) from None
    if not is_store(folder):
        raise StoreError(
            f"store: {folder} is no token store (its manifest.json was not written by unmask); make one with unmask "
            "prepare"
        )
    return parse_manifest(text, str(folder))


def parse_manifest(text: str, store: str) -> Manifest:
    """Return the manifest that a text holds; `store` is the folder or the address of its store, for errors.

    Raises:
        StoreError: it is damaged, or of a newer format.
    """
    path = f"{store}/{MANIFEST}"
    try:
        manifest: Manifest = json.loads(text)
        version = int(manifest["schema_version"])
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"store: {path} is damaged; remove the store and prepare it again") from None
    if not 1 <= version <= SCHEMA_VERSION:
        raise StoreError(
            f"store: {store} was written in format {version}; this version reads format {SCHEMA_VERSION} - "
            "upgrade unmask or prepare the store again"
        )
    missing = sorted(Manifest.__required_keys__ - manifest.keys())
    if missing:
        raise StoreError(
            f"store: {path} is damaged, it lacks {', '.join(missing)}; remove the store and prepare it again"
        )
    return manifest


def check_shards(folder: Path, manifest: Manifest, *, hashes: bool) -> None:
    """Check that every shard of a store has its size; with `hashes` its SHA-256 too, which reads 1 GB a second.

    Raises:
        StoreError: a shard is missing, truncated or altered; the message names it.
    """
    require_documents(folder, manifest, sum(shard["documents"] for shard in manifest["shards"]))
    remedy = "copy the store again, or remove it and prepare it anew"
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        try:
            size = path.stat().st_size
        except OSError as error:
            raise StoreError(f"store: {path} is missing ({error.strerror}); {remedy}") from None
        if size != shard["bytes"]:
            what = "truncated" if size < shard["bytes"] else "altered"
            raise StoreError(f"store: {path} is {what}: {size} bytes, the manifest says {shard['bytes']}; {remedy}")
        if hashes:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != shard["sha256"]:
                raise StoreError(
                    f"store: {path} is damaged: its SHA-256 begins {digest[:12]}, the manifest says "
                    f"{shard['sha256'][:12]}; {remedy}"
                )


def require_documents(store: Path | str, manifest: Manifest, count: int) -> None:
    """Check that the shards of a store hold as many documents as its manifest says.

    Raises:
        StoreError: they hold another number.
    """
    if count != manifest["documents"]:
        raise StoreError(
            f"store: {store} holds {counted(count, 'document')}, the manifest says {manifest['documents']}; prepare "
            "it again"
        )


def fingerprint(manifest: Manifest) -> str:
    """Return the SHA-256 of the contents: tokens in order, their sources and their tokenizer."""
    meaning = {
        "schema_version": manifest["schema_version"],
        "tokenizer_hash": manifest["tokenizer_hash"],
        "special_ids": manifest["special_ids"],
        "sources": [source["name"] for source in manifest["sources"]],
        "shards": [shard["sha256"] for shard in manifest["shards"]],
    }
    if "added_special_ids" in manifest:
        meaning["added_special_ids"] = manifest["added_special_ids"]
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
