"""Writes a token store: tokenised documents to Arrow IPC files and a manifest.

    column           type                      per document
    ids              large_list<uint16|32>     token ids without [CLS] and [SEP]; 16 bits up to 65,536 ids
    word_starts      large_list<bool>          one bit per token: the token starts a word
    sentence_starts  large_list<bool>          one bit per token: the token starts a sentence
    source           int16                     position in the manifest's sources
    content_hash     uint64                    of the text, what the held-out split goes by

Arrow packs booleans, so a token takes 2 or 4 bytes and 2 bits. Any Arrow reader opens a shard
(`datasets.load_dataset("arrow", ...)`, polars). A record batch has 65,536 documents, or fewer when these
would exceed 128 M tokens in memory; shards end at 256 M tokens.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.data.manifest import MANIFEST, SCHEMA_VERSION, Manifest, ShardEntry, SourceEntry
from unmask.data.shards import ShardFile, sync
from unmask.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["StoreWriter", "StoredDocument", "content_hash"]

ROLES = ("pad", "unk", "cls", "sep", "mask")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredDocument:
    """One tokenised document.

    Args:
        ids: token ids without [CLS] and [SEP], (n,), n >= 1.
        source: the name of its source.
        content_hash: `content_hash` of its text, in [0, 2**64).
        word_starts: (n,) bool; None means that every token starts a word.
        sentence_starts: (n,) bool; None means that the document is one sentence.
    """

    ids: NDArray[Any]
    source: str
    content_hash: int
    word_starts: NDArray[np.bool_] | None = None
    sentence_starts: NDArray[np.bool_] | None = None


def content_hash(text: str) -> int:
    """Returns 64 bits that depend on the text alone: the same split whatever the tokenizer, order or machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


class StoreWriter:
    """A context that collects documents and, when left without an exception, puts the store in place whole.

    Everything is written under a hidden name beside `folder`, synced and renamed; an exception removes it, and what a
    killed process left there goes when the next one begins the same store.

    Args:
        folder: the store to make; it must not exist.
        tokenizer_hash: `Tokenizer.hash` of what made the ids.
        vocab_size: ids are below it.
        special_ids: ids of pad, unk, cls, sep, mask.
        segmenter: `Segmenter.label` of what joined ideographs to words, "" for nothing.
        sources: names in the order of their numbers; others are appended as they come.
        batch_documents: documents per record batch.
        batch_tokens: tokens that end a record batch early.
        shard_tokens: tokens that end a shard.

    Raises:
        StoreError: the folder exists, or cannot be written (a full disk); nothing is left behind.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        tokenizer_hash: str,
        vocab_size: int,
        special_ids: Mapping[str, int],
        segmenter: str = "",
        sources: Iterable[str] = (),
        batch_documents: int = 65_536,
        batch_tokens: int = 1 << 27,
        shard_tokens: int = 1 << 28,
    ) -> None:
        if set(special_ids) != set(ROLES):
            raise ValueError(f"store: special_ids must name {', '.join(ROLES)}, got {', '.join(special_ids)}")
        self.folder = Path(folder)
        self.partial = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.partial")
        self.summary: dict[str, Any] = {}
        self._tokenizer_hash = tokenizer_hash
        self._vocab_size = vocab_size
        self._special_ids = dict(special_ids)
        self._segmenter = segmenter
        self._dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._sources = {name: number for number, name in enumerate(sources)}
        self._source_documents = dict.fromkeys(self._sources, 0)
        self._source_tokens = dict.fromkeys(self._sources, 0)
        self._batch_documents, self._batch_tokens = batch_documents, batch_tokens
        self._shard_tokens = shard_tokens
        self._shards: list[ShardEntry] = []
        self._open_shard: ShardFile | None = None
        self._pending: list[StoredDocument] = []
        self._pending_tokens = 0

    def __enter__(self) -> StoreWriter:
        if self.folder.exists():
            raise StoreError(f"store: {self.folder} exists already; choose another folder or remove it first")
        try:
            self._sweep()
            self.partial.mkdir(parents=True)
        except OSError as error:
            raise self._failed(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        except OSError as failure:
            raise self._failed(failure) from None
        finally:
            if self._open_shard is not None:
                self._open_shard.abandon()
            shutil.rmtree(self.partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise self._failed(error) from error

    def _sweep(self) -> None:
        """Remove what killed writers of this folder left behind."""
        for partial in self.folder.parent.glob(f".{glob.escape(self.folder.name)}.*.partial"):
            number = partial.name.removesuffix(".partial").rpartition(".")[2]
            if number.isdecimal() and (int(number) == os.getpid() or not _runs(int(number))):
                shutil.rmtree(partial, ignore_errors=True)

    def add(self, document: StoredDocument) -> None:
        """Appends one document; order of calls is order in the store."""
        if len(document.ids) == 0:
            raise ValueError(f"store: a document needs at least one token, got none from {document.source!r}")
        if document.source not in self._sources:
            self._sources[document.source] = len(self._sources)
            self._source_documents[document.source] = self._source_tokens[document.source] = 0
        self._source_documents[document.source] += 1
        self._source_tokens[document.source] += len(document.ids)
        self._pending.append(document)
        self._pending_tokens += len(document.ids)
        if len(self._pending) >= self._batch_documents or self._pending_tokens >= self._batch_tokens:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        batch = self._record_batch(self._pending)
        if self._open_shard is None:
            name = f"shard-{len(self._shards):05d}.arrow"
            self._open_shard = ShardFile(self.partial / name, batch.schema)
        self._open_shard.write(batch, self._pending_tokens)
        self._pending, self._pending_tokens = [], 0
        if self._open_shard.tokens >= self._shard_tokens:
            self._close_shard()

    def _record_batch(self, documents: list[StoredDocument]) -> pa.RecordBatch:
        import pyarrow as pa

        lengths = np.fromiter((len(document.ids) for document in documents), np.int64, len(documents))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
        ids = np.concatenate([document.ids for document in documents])
        if ids.min() < 0 or ids.max() >= self._vocab_size:
            raise ValueError(f"store: ids must be in [0, {self._vocab_size}), got {ids.min()} to {ids.max()}")
        words, sentences = (np.concatenate(part) for part in zip(*map(_flags, documents), strict=True))
        if not len(words) == len(sentences) == len(ids):
            raise ValueError(
                f"store: word_starts and sentence_starts need one flag for each of {len(ids)} tokens, got "
                f"{len(words)} and {len(sentences)}"
            )
        columns = {
            "ids": pa.LargeListArray.from_arrays(offsets, pa.array(ids.astype(self._dtype))),
            "word_starts": pa.LargeListArray.from_arrays(offsets, pa.array(words)),
            "sentence_starts": pa.LargeListArray.from_arrays(offsets, pa.array(sentences)),
            "source": pa.array([self._sources[document.source] for document in documents], pa.int16()),
            "content_hash": pa.array([document.content_hash for document in documents], pa.uint64()),
        }
        batch = pa.RecordBatch.from_pydict(columns)
        metadata = {"unmask.schema_version": str(SCHEMA_VERSION), "unmask.tokenizer_hash": self._tokenizer_hash}
        return batch.replace_schema_metadata(metadata)

    def _close_shard(self) -> None:
        if self._open_shard is not None:
            self._shards.append(self._open_shard.close())
            self._open_shard = None

    def _finish(self) -> None:
        self._flush()
        self._close_shard()
        if not self._shards:
            raise StoreError(f"store: {self.folder} would be empty; give at least one document with text")
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            documents=sum(shard["documents"] for shard in self._shards),
            tokens=sum(shard["tokens"] for shard in self._shards),
            vocab_size=self._vocab_size,
            tokenizer_hash=self._tokenizer_hash,
            special_ids=self._special_ids,
            segmenter=self._segmenter,
            sources=[
                SourceEntry(name=name, documents=self._source_documents[name], tokens=self._source_tokens[name])
                for name in self._sources
            ],
            shards=self._shards,
            summary=self.summary,
        )
        with (self.partial / MANIFEST).open("w", encoding="utf-8") as stream:
            json.dump(manifest, stream, indent=2)
            stream.write("\n")
            sync(stream)
        if self.folder.exists():
            raise StoreError(f"store: {self.folder} appeared while it was being written; nothing was replaced")
        self.partial.rename(self.folder)
        parent = os.open(self.folder.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)

    def _failed(self, error: OSError) -> StoreError:
        reason = error.strerror or str(error)
        return StoreError(f"store: {self.folder} cannot be written ({reason}); nothing of it was kept")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _flags(document: StoredDocument) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    words, sentences = document.word_starts, document.sentence_starts
    if words is None:
        words = np.ones(len(document.ids), np.bool_)
    if sentences is None:
        sentences = np.zeros(len(document.ids), np.bool_)
        sentences[0] = True
    return words, sentences
