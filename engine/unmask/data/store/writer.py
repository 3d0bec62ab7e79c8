"""Writing a token store: documents that are tokens already, as shards in the Arrow IPC format.

    column           type                      per document
    ids              large_list<uint16|32>     token ids without [CLS] and [SEP]; 16 bits up to 65,536 ids
    word_starts      large_list<bool>          one bit per token: it starts a word
    sentence_starts  large_list<bool>          one bit per token: it starts a sentence
    source           int16                     position in the manifest's sources
    content_hash     uint64                    hash of the text, which decides the held-out split

Arrow packs booleans, so a token takes 2 or 4 bytes and 2 bits. Any Arrow reader opens a shard
(`datasets.load_dataset("arrow", ...)`, polars). A record batch has 65,536 documents, or fewer if these have more tokens
than a shard. A shard ends at 64 M tokens, a few minutes of work for one core; its SHA-256 is taken as it is written.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from unmask.data.store.manifest import SCHEMA_VERSION, ShardEntry, SourceEntry, StoreHead, make_manifest
from unmask.data.store.reader import Store
from unmask.data.store.unfinished import UnfinishedStore

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from unmask.data.tokenizer import Tokenizer

__all__ = ["SHARD_TOKENS", "ShardWriter", "StoredDocument", "write_store"]

SHARD_TOKENS = 1 << 26


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredDocument:
    """A document as tokens.

    Attributes:
        ids: token ids without [CLS] and [SEP], (n,), n >= 1.
        source: the name of its source.
        content_hash: `prepare.encoding.content_hash` of its text, in [0, 2**64).
        word_starts: (n,) bool; None if every token starts a word, or if the spelling says it (`write_store`).
        sentence_starts: (n,) bool; None if the document is one sentence.
    """

    ids: NDArray[Any]
    source: str
    content_hash: int
    word_starts: NDArray[np.bool_] | None = None
    sentence_starts: NDArray[np.bool_] | None = None


def write_store(
    folder: str | Path,
    documents: Iterable[StoredDocument],
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    tokenizer_hash: str | None = None,
    vocab_size: int | None = None,
    special_ids: Mapping[str, int] | None = None,
    segmenter: str = "",
    added_special_ids: Sequence[int] = (),
    sources: Iterable[str] = (),
    batch_documents: int = 65_536,
    shard_tokens: int = SHARD_TOKENS,
) -> Store:
    """Write documents to a new store, whole or not at all, and open it.

    Args:
        folder: the store to make; it must not exist.
        documents: the documents.
        tokenizer: the tokenizer that made the ids, or its folder. The store keeps a copy, so that a run can train on it
            and its model can be exported; documents without `word_starts` have the words that the tokens spell.
            Default: none, which needs the next three, for a store that is only read.
        tokenizer_hash, vocab_size, special_ids, added_special_ids: see `StoreHead`; a tokenizer says them.
        segmenter: see `StoreHead`.
        sources: names of the first sources; others follow in the order of the documents.
        batch_documents, shard_tokens: see `ShardWriter`.

    Raises:
        StoreError: the folder exists or cannot be written, or there is no document; nothing is left behind.
        TokenizerError: the tokenizer cannot be loaded.
        ValueError: a document has no token, an id outside the vocabulary, or flags of another length; or arguments are
            missing, or given beside a tokenizer.
    """
    said = {
        "tokenizer_hash": tokenizer_hash,
        "vocab_size": vocab_size,
        "special_ids": special_ids,
        "added_special_ids": added_special_ids or None,
    }
    beside = [name for name, value in said.items() if value is not None]
    if tokenizer is not None:
        from unmask.data.tokenizer import Tokenizer

        if beside:
            raise ValueError(f"write_store: {beside[0]} is given beside a tokenizer, which says it; leave it out")
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = Tokenizer.load(tokenizer)
        head = StoreHead.of(tokenizer, segmenter)
    elif tokenizer_hash is None or vocab_size is None or special_ids is None:
        raise ValueError(
            "write_store: tokenizer must be given, or tokenizer_hash, vocab_size and special_ids in its place, got "
            f"{', '.join(beside) or 'none of them'}"
        )
    else:
        head = StoreHead(
            tokenizer_hash=tokenizer_hash,
            vocab_size=vocab_size,
            special_ids=special_ids,
            segmenter=segmenter,
            added_special_ids=added_special_ids,
        )
    names = [SourceEntry(name=name, documents=0, tokens=0) for name in sources]
    with UnfinishedStore(folder) as place:
        if tokenizer is not None:
            tokenizer.save(place.path / "tokenizer")
        writer = ShardWriter(
            place.path, head, sources=names, batch_documents=batch_documents, shard_tokens=shard_tokens
        )
        try:
            for document in documents:
                writer.add(document if tokenizer is None else _with_words(document, tokenizer))
            writer.close()
        finally:
            writer.abandon()
        place.publish(make_manifest(head, writer.sources, writer.shards, {}))
    return Store.open(folder)


def _with_words(document: StoredDocument, tokenizer: Tokenizer) -> StoredDocument:
    """Return the document with the word starts that its tokens spell, unless it has some or an id is none."""
    ids = np.asarray(document.ids)
    if document.word_starts is not None or ids.size == 0 or ids.min() < 0 or ids.max() >= tokenizer.vocab_size:
        return document
    return replace(document, word_starts=tokenizer.word_starts(ids))


class ShardWriter:
    """Writes documents to `shard-00000.arrow`, `shard-00001.arrow`, ... in a folder.

    Args:
        folder: the folder, which exists.
        head: what made the ids.
        sources: the sources in the order of their numbers, with their counts in `shards`; others are appended.
        shards: the shards that are finished already.
        batch_documents: documents in a record batch.
        shard_tokens: tokens after which a record batch and a shard end.
        finished: called when a shard is finished and in `shards`.
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
        self._open_shard: _ShardFile | None = None
        self._pending = _Pending(self._dtype, head.vocab_size)

    def add(self, document: StoredDocument) -> None:
        """Append a document; the order of the calls is the order in the store.

        Raises:
            ValueError: the document has no token, an id outside the vocabulary, or flags of another length.
            OSError: the disk refuses.
        """
        if len(document.ids) == 0:
            raise ValueError(f"store: a document needs at least one token, got none from {document.source!r}")
        number = self._numbers.setdefault(document.source, len(self.sources))
        if number == len(self.sources):
            self.sources.append(SourceEntry(name=document.source, documents=0, tokens=0))
        self._pending.add(document, number)
        self.sources[number]["documents"] += 1
        self.sources[number]["tokens"] += len(document.ids)
        if len(self._pending) >= self._batch_documents or self._pending.tokens >= self._shard_tokens:
            self._flush()

    def close(self) -> None:
        """Write the last shard; then `shards` and `sources` are complete."""
        self._flush()
        self._close_shard()

    def abandon(self) -> None:
        """Close the unfinished shard."""
        if self._open_shard is not None:
            self._open_shard.abandon()
            self._open_shard = None

    def _flush(self) -> None:
        if not len(self._pending):
            return
        metadata = {"unmask.schema_version": str(SCHEMA_VERSION), "unmask.tokenizer_hash": self._head.tokenizer_hash}
        tokens, batch = self._pending.tokens, self._pending.record_batch().replace_schema_metadata(metadata)
        self._pending = _Pending(self._dtype, self._head.vocab_size)
        if self._open_shard is None:
            self._open_shard = _ShardFile(self._folder / f"shard-{len(self.shards):05d}.arrow", batch.schema)
        self._open_shard.write(batch, tokens)
        if self._open_shard.tokens >= self._shard_tokens:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._open_shard is not None:
            self.shards.append(self._open_shard.close())
            self._open_shard = None
            if self._finished is not None:
                self._finished()


class _Pending:
    """The documents of the next record batch, as bytes: an object for each would take 400 bytes of memory."""

    def __init__(self, dtype: np.dtype[Any], vocab_size: int) -> None:
        self.tokens = 0
        self._dtype, self._vocab_size = dtype, vocab_size
        self._ids, self._words, self._sentences = bytearray(), bytearray(), bytearray()
        self._lengths, self._sources, self._hashes = array("q"), array("h"), array("Q")

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, document: StoredDocument, source: int) -> None:
        ids = np.asarray(document.ids)
        if ids.min() < 0 or ids.max() >= self._vocab_size:
            raise ValueError(f"store: ids must be in [0, {self._vocab_size}), got {ids.min()} to {ids.max()}")
        words, sentences = _flags(document)
        if not len(words) == len(sentences) == len(ids):
            raise ValueError(
                f"store: word_starts and sentence_starts need one flag for each of {len(ids)} tokens, got "
                f"{len(words)} and {len(sentences)}"
            )
        self.tokens += len(ids)
        self._ids += ids.astype(self._dtype).tobytes()
        self._words += np.asarray(words, np.bool_).tobytes()
        self._sentences += np.asarray(sentences, np.bool_).tobytes()
        self._lengths.append(len(ids))
        self._sources.append(source)
        self._hashes.append(document.content_hash)

    def record_batch(self) -> pa.RecordBatch:
        import pyarrow as pa

        offsets = pa.array(np.concatenate([[0], np.cumsum(np.asarray(self._lengths))]), pa.int64())
        columns = {
            "ids": pa.LargeListArray.from_arrays(offsets, pa.array(np.frombuffer(self._ids, self._dtype))),
            "word_starts": pa.LargeListArray.from_arrays(offsets, pa.array(np.frombuffer(self._words, np.bool_))),
            "sentence_starts": pa.LargeListArray.from_arrays(
                offsets, pa.array(np.frombuffer(self._sentences, np.bool_))
            ),
            "source": pa.array(np.asarray(self._sources), pa.int16()),
            "content_hash": pa.array(np.asarray(self._hashes), pa.uint64()),
        }
        return pa.RecordBatch.from_pydict(columns)


def _flags(document: StoredDocument) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    words, sentences = document.word_starts, document.sentence_starts
    if words is None:
        words = np.ones(len(document.ids), np.bool_)
    if sentences is None:
        sentences = np.zeros(len(document.ids), np.bool_)
        sentences[0] = True
    return words, sentences


class _ShardFile:
    """An Arrow file while it is written, and hashed on its way to the disk."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow as pa

        self.tokens = 0
        self._documents = 0
        self._path = path
        self._stream = _HashingFile(path.open("wb"))
        self._writer = pa.ipc.new_file(pa.PythonFile(self._stream, mode="w"), schema)

    def write(self, batch: pa.RecordBatch, tokens: int) -> None:
        self._writer.write_batch(batch)
        self._documents += batch.num_rows
        self.tokens += tokens

    def close(self) -> ShardEntry:
        self._writer.close()
        self._stream.finish()
        return ShardEntry(
            file=self._path.name,
            documents=self._documents,
            tokens=self.tokens,
            bytes=self._path.stat().st_size,
            sha256=self._stream.digest.hexdigest(),
        )

    def abandon(self) -> None:
        self._stream.raw.close()


class _HashingFile:
    """A file that Arrow writes from front to back, with the SHA-256 of its bytes."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.tell, self.flush = raw.tell, raw.flush
        self.digest = hashlib.sha256()

    @property
    def closed(self) -> bool:
        return self.raw.closed

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.raw.write(data)

    def finish(self) -> None:
        self.raw.flush()
        os.fsync(self.raw.fileno())
        self.raw.close()

    def close(self) -> None:
        """Do nothing: Arrow closes its file before `finish` has synced it."""
