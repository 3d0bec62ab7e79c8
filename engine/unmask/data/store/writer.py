"""Writes tokenised documents to the shards of a token store, Arrow IPC files.

    column           type                      per document
    ids              large_list<uint16|32>     token ids without [CLS] and [SEP]; 16 bits up to 65,536 ids
    word_starts      large_list<bool>          one bit per token: the token starts a word
    sentence_starts  large_list<bool>          one bit per token: the token starts a sentence
    source           int16                     position in the manifest's sources
    content_hash     uint64                    of the text, what the held-out split goes by

Arrow packs booleans, so a token takes 2 or 4 bytes and 2 bits. Any Arrow reader opens a shard
(`datasets.load_dataset("arrow", ...)`, polars). A record batch has 65,536 documents, or fewer when these
would exceed the shard; shards end at 64 M tokens, a few minutes of one core's work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.data.store.manifest import SCHEMA_VERSION, ShardEntry, SourceEntry, StoreHead
from unmask.data.store.shards import ShardFile

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["SHARD_TOKENS", "ShardWriter", "StoredDocument", "content_hash"]

SHARD_TOKENS = 1 << 26


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


class ShardWriter:
    """Collects documents and writes them to `shard-00000.arrow` and so on in a folder.

    Args:
        folder: where to; it exists.
        head: what made the ids.
        sources: names in the order of their numbers, with what the shards written before hold of them; others are
            appended as they come.
        shards: those that are finished already; the next one is numbered after them.
        batch_documents: documents per record batch.
        shard_tokens: tokens that end a record batch and a shard.
        finished: called when a shard is finished, after it is in `shards`.
    """

    def __init__(
        self,
        folder: Path,
        head: StoreHead,
        *,
        sources: Iterable[SourceEntry] = (),
        shards: Iterable[ShardEntry] = (),
        batch_documents: int = 65_536,
        shard_tokens: int = SHARD_TOKENS,
        finished: Callable[[], None] | None = None,
    ) -> None:
        self.sources = [SourceEntry(**source) for source in sources]
        self.shards = list(shards)
        self._folder, self._head = folder, head
        self._dtype = np.dtype(np.uint16 if head.vocab_size <= 1 << 16 else np.uint32)
        self._numbers = {source["name"]: number for number, source in enumerate(self.sources)}
        self._batch_documents, self._shard_tokens = batch_documents, shard_tokens
        self._finished = finished
        self._open_shard: ShardFile | None = None
        self._pending: list[StoredDocument] = []
        self._pending_tokens = 0

    def add(self, document: StoredDocument) -> None:
        """Appends one document; order of calls is order in the store.

        Raises:
            ValueError: the document has no token, an id outside the vocabulary, or flags of another length.
            OSError: the disk refuses.
        """
        if len(document.ids) == 0:
            raise ValueError(f"store: a document needs at least one token, got none from {document.source!r}")
        number = self._numbers.setdefault(document.source, len(self.sources))
        if number == len(self.sources):
            self.sources.append(SourceEntry(name=document.source, documents=0, tokens=0))
        self.sources[number]["documents"] += 1
        self.sources[number]["tokens"] += len(document.ids)
        self._pending.append(document)
        self._pending_tokens += len(document.ids)
        if len(self._pending) >= self._batch_documents or self._pending_tokens >= self._shard_tokens:
            self._flush()

    def close(self) -> None:
        """Writes what is left; `shards` and `sources` are complete after it."""
        self._flush()
        self._close_shard()

    def abandon(self) -> None:
        """Closes the file that is being written, unfinished."""
        if self._open_shard is not None:
            self._open_shard.abandon()
            self._open_shard = None

    def _flush(self) -> None:
        if not self._pending:
            return
        batch = self._record_batch(self._pending)
        if self._open_shard is None:
            self._open_shard = ShardFile(self._folder / f"shard-{len(self.shards):05d}.arrow", batch.schema)
        self._open_shard.write(batch, self._pending_tokens)
        self._pending, self._pending_tokens = [], 0
        if self._open_shard.tokens >= self._shard_tokens:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._open_shard is not None:
            self.shards.append(self._open_shard.close())
            self._open_shard = None
            if self._finished is not None:
                self._finished()

    def _record_batch(self, documents: list[StoredDocument]) -> pa.RecordBatch:
        import pyarrow as pa

        lengths = np.fromiter((len(document.ids) for document in documents), np.int64, len(documents))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
        ids = np.concatenate([document.ids for document in documents])
        if ids.min() < 0 or ids.max() >= self._head.vocab_size:
            raise ValueError(f"store: ids must be in [0, {self._head.vocab_size}), got {ids.min()} to {ids.max()}")
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
            "source": pa.array([self._numbers[document.source] for document in documents], pa.int16()),
            "content_hash": pa.array([document.content_hash for document in documents], pa.uint64()),
        }
        batch = pa.RecordBatch.from_pydict(columns)
        metadata = {"unmask.schema_version": str(SCHEMA_VERSION), "unmask.tokenizer_hash": self._head.tokenizer_hash}
        return batch.replace_schema_metadata(metadata)


def _flags(document: StoredDocument) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    words, sentences = document.word_starts, document.sentence_starts
    if words is None:
        words = np.ones(len(document.ids), np.bool_)
    if sentences is None:
        sentences = np.zeros(len(document.ids), np.bool_)
        sentences[0] = True
    return words, sentences
