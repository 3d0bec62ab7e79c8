"""A token store of documents that are tokenised already, in one call; `prepare` is for text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from unmask.data.store.manifest import SourceEntry, StoreHead, make_manifest
from unmask.data.store.reader import Store
from unmask.data.store.unfinished import UnfinishedStore
from unmask.data.store.writer import SHARD_TOKENS, ShardWriter, StoredDocument

__all__ = ["write_store"]


def write_store(
    folder: str | Path,
    documents: Iterable[StoredDocument],
    *,
    tokenizer_hash: str,
    vocab_size: int,
    special_ids: Mapping[str, int],
    segmenter: str = "",
    added_special_ids: Sequence[int] = (),
    sources: Iterable[str] = (),
    batch_documents: int = 65_536,
    shard_tokens: int = SHARD_TOKENS,
) -> Store:
    """Writes documents to a new store, whole or not at all, and opens it.

    The names `sources` get the first numbers, others follow as they come; the rest is as in `StoreHead` and
    `ShardWriter`.

    Raises:
        StoreError: the folder exists, cannot be written (a full disk), or there is no document; nothing is left behind.
        ValueError: a document has no token, an id outside the vocabulary, or flags of another length.
    """
    head = StoreHead(
        tokenizer_hash=tokenizer_hash,
        vocab_size=vocab_size,
        special_ids=special_ids,
        segmenter=segmenter,
        added_special_ids=added_special_ids,
    )
    names = [SourceEntry(name=name, documents=0, tokens=0) for name in sources]
    with UnfinishedStore(folder) as place:
        writer = ShardWriter(
            place.path, head, sources=names, batch_documents=batch_documents, shard_tokens=shard_tokens
        )
        try:
            for document in documents:
                writer.add(document)
            writer.close()
        finally:
            writer.abandon()
        place.publish(make_manifest(head, writer.sources, writer.shards, {}))
    return Store.open(folder)
