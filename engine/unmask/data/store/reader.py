"""Reading a token store: documents as memory-mapped NumPy views, gathered by the thousand without a Python loop.

N documents, T gathered tokens. Opening maps the shards and keeps 22 bytes a document in memory (length, place, source,
hash). Tokens stay on disk and in the page cache, which all processes share. A store pickles as its path.

`gather` copies spans of documents into one flat array, by addresses in the Arrow buffers; `pyarrow.compute.take` on
lists is two orders of magnitude slower. Cost: 10 ns a token for ids and word starts, if the pages are cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unmask.config.settings import between_commas, counted
from unmask.data.compose.sequences import Indices, ranges
from unmask.data.store.manifest import Manifest, ShardEntry, check_shards, fingerprint, read_manifest
from unmask.errors import StoreError
from unmask.paths import require_utf8

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from unmask.data.tokenizer import Tokenizer

__all__ = ["Store"]

# hashing this much takes 0.1 s, so a store up to this size is verified at every opening
_HASHED_ALWAYS_BYTES = 1 << 27


class Store:
    """A token store, opened with `Store.open`.

    Attributes:
        folder: its path.
        manifest: the contents of `manifest.json`.
        fingerprint: SHA-256 of the contents: tokens in order, sources, tokenizer.
        num_documents, num_tokens: N, and the tokens of all documents without [CLS] and [SEP].
        sources: their names, by number.
        tokenizer_hash, vocab_size: of the tokenizer that made the ids.
        special_ids: ids of pad, unk, cls, sep, mask.
        added_special_ids: ids of the other special tokens, ascending.
        segmenter: what joined ideographs to words, such as "rjieba 0.2.2"; empty if each is a word.
        lengths: tokens of each document without [CLS] and [SEP], (N,) int32.
        source_of: number of its source in `sources`, (N,) int16.
        content_hashes: hash of its text, (N,) uint64.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.fingerprint = fingerprint(manifest)
        self.num_documents, self.num_tokens = manifest["documents"], manifest["tokens"]
        self.sources = [source["name"] for source in manifest["sources"]]
        self.tokenizer_hash, self.vocab_size = manifest["tokenizer_hash"], manifest["vocab_size"]
        self.special_ids = dict(manifest["special_ids"])
        self.added_special_ids = list(manifest.get("added_special_ids", ()))
        self.segmenter = manifest.get("segmenter", "")
        begins, lengths, sources, hashes, bounds = [], [], [], [], [0]
        self._batches: list[_TokenBatch] = []
        for shard in manifest["shards"]:
            for batch, offsets, source, hashed in _map_shard(folder, shard):
                self._batches.append(batch)
                begins.append(offsets[:-1])
                lengths.append(np.diff(offsets).astype(np.int32))
                sources.append(source)
                hashes.append(hashed)
                bounds.append(bounds[-1] + len(source))
        if bounds[-1] != self.num_documents:
            raise StoreError(
                f"store: {folder} holds {counted(bounds[-1], 'document')}, the manifest says {self.num_documents}; "
                "prepare it again"
            )
        self.lengths: NDArray[np.int32] = np.concatenate(lengths)
        self.source_of: NDArray[np.int16] = np.concatenate(sources)
        self.content_hashes: NDArray[np.uint64] = np.concatenate(hashes)
        # where each document begins in its record batch, and the first document of each record batch
        self._begins: Indices = np.concatenate(begins)
        self._bounds: Indices = np.array(bounds, np.int64)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool | None = None) -> Store:
        """Open a store after checking it against its manifest.

        Args:
            folder: the store.
            verify: whether to compare the SHA-256 of every shard, beside its size. Default: up to 128 MiB.

        Raises:
            StoreError: there is no store; a shard is missing, truncated or altered; or the format is newer.
        """
        folder = Path(folder)
        require_utf8(str(folder))
        manifest = read_manifest(folder)
        small = sum(shard["bytes"] for shard in manifest["shards"]) <= _HASHED_ALWAYS_BYTES
        check_shards(folder, manifest, hashes=small if verify is None else verify)
        return cls(folder, manifest)

    def __repr__(self) -> str:
        return (
            f"<Store {str(self.folder)!r}: {counted(self.num_documents, 'document')}, {self.num_tokens:,} tokens, "
            f"vocabulary {self.vocab_size:,}, sources {', '.join(map(between_commas, self.sources))}>"
        )

    def __fspath__(self) -> str:
        # a store may be given where its folder may
        return str(self.folder)

    def __reduce__(self) -> tuple[Any, ...]:
        # the shards were verified when the store was first opened
        return partial(Store.open, verify=False), (self.folder,)

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Check that `tokenizer` made this store.

        Raises:
            StoreError: another one did, so the ids mean other words.
        """
        if tokenizer.hash != self.tokenizer_hash:
            raise StoreError(
                f"store: {self.folder} was made by tokenizer {self.tokenizer_hash[:12]}, got {tokenizer.hash[:12]}; "
                "use the tokenizer in the store's folder or prepare the text again with this one"
            )

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer that `prepare` or `write_store` saved in the store.

        Raises:
            StoreError: there is none, or it is not the one that made the ids.
            TokenizerError: it is damaged.
        """
        from unmask.data.tokenizer import Tokenizer

        if not (self.folder / "tokenizer").exists():
            raise StoreError(
                f"store: {self.folder} holds no tokenizer, which a run needs; copy the folder of the one that made its "
                f"ids to {self.folder / 'tokenizer'}, or write the store with write_store(..., tokenizer=FOLDER)"
            )
        tokenizer = Tokenizer.load(self.folder / "tokenizer")
        if tokenizer.added_special_ids and tokenizer.hash != self.tokenizer_hash:
            names = ", ".join(map(tokenizer.token, tokenizer.added_special_ids[:3]))
            raise StoreError(
                f"store: {self.folder} was made when special tokens such as {names} in a text were cut into pieces; "
                "prepare the text again"
            )
        self.require_tokenizer(tokenizer)
        return tokenizer

    def held_out_mask(self, fraction: float) -> NDArray[np.bool_]:
        """Return (N,) bool: True for held-out documents, about `fraction` of them, by the hash of their text.

        A document keeps its side if the corpus grows, is reordered or tokenised again, and copies of a text are on one
        side. At least one document is held out; if there are two different texts, at least one is not.

        Raises:
            ValueError: `fraction` is not in (0, 1).
        """
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"store: the held-out fraction must be above 0 and below 1, got {fraction}")
        held_out = self.content_hashes < np.uint64(int(fraction * 2.0**64))
        smallest, largest = self.content_hashes.min(), self.content_hashes.max()
        held_out |= self.content_hashes == smallest
        if smallest != largest:
            held_out &= self.content_hashes != largest
        return np.asarray(held_out, dtype=np.bool_)

    def gather(
        self, documents: ArrayLike, starts: ArrayLike, lengths: ArrayLike
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Copy spans of documents into flat arrays, in the order given.

        Args:
            documents: document of each span, (P,), in [0, N); in any order, repeated or not.
            starts: first token of each span in its document, (P,).
            lengths: tokens of each span, (P,); 0 is allowed.

        Returns:
            Ids, (T,) uint16 or uint32, and word starts, (T,) bool, with T = sum(lengths).

        Raises:
            ValueError: a span reaches beyond its document or a document is not in the store.
        """
        begins, sizes, where = self._locate(documents, starts, lengths)
        ids = np.empty(sizes.sum(), self._batches[0].ids.dtype)
        words = np.empty(ids.size, np.bool_)
        for batch, taken, placed in self._parts(begins, sizes, where):
            ids[placed] = batch.ids[taken]
            words[placed] = _bits(batch.words, taken)
        return ids, words

    def gather_sentence_starts(self, documents: ArrayLike, starts: ArrayLike, lengths: ArrayLike) -> NDArray[np.bool_]:
        """Copy the sentence starts of spans, (T,) bool; arguments and errors as in `gather`."""
        begins, sizes, where = self._locate(documents, starts, lengths)
        sentences = np.empty(sizes.sum(), np.bool_)
        for batch, taken, placed in self._parts(begins, sizes, where):
            sentences[placed] = _bits(batch.sentences, taken)
        return sentences

    def count_ids(self, documents: ArrayLike) -> NDArray[np.int64]:
        """Count each id in the documents (n,), of which one that stands twice counts twice: int64 (vocab_size,)."""
        rows = np.asarray(documents, dtype=np.int64)
        counts = np.zeros(self.vocab_size, np.int64)
        begins, sizes, where = self._locate(rows, np.zeros(rows.size, np.int64), self.lengths[rows])
        for batch, taken, _ in self._parts(begins, sizes, where):
            counts += np.bincount(batch.ids[taken], minlength=self.vocab_size)
        return counts

    def _locate(self, documents: ArrayLike, starts: ArrayLike, lengths: ArrayLike) -> tuple[Indices, Indices, Indices]:
        """Return for each span its first token in the record batch, its tokens and its record batch, (P,) each."""
        rows, first, sizes = (np.asarray(part, dtype=np.int64) for part in (documents, starts, lengths))
        if rows.ndim != 1 or not rows.shape == first.shape == sizes.shape:
            raise ValueError(
                f"gather: documents, starts and lengths must have one shape (P,), got {rows.shape}, "
                f"{first.shape}, {sizes.shape}"
            )
        if rows.size and (rows.min() < 0 or rows.max() >= self.num_documents):
            raise ValueError(
                f"gather: documents must be in [0, {self.num_documents}), got {rows.min()} to {rows.max()}"
            )
        wrong = np.flatnonzero((first < 0) | (sizes < 0) | (first + sizes > self.lengths[rows]))
        if wrong.size:
            at = wrong[0]
            raise ValueError(
                f"gather: a span must lie in [0, {self.lengths[rows[at]]}], the tokens of its document {rows[at]}, "
                f"got {first[at]} to {first[at] + sizes[at]} at place {at}"
            )
        where = np.searchsorted(self._bounds, rows, side="right") - 1
        return self._begins[rows] + first, sizes, where

    def _parts(
        self, begins: Indices, sizes: Indices, where: Indices
    ) -> Iterator[tuple[_TokenBatch, Indices, Indices | slice]]:
        """Yield each record batch with the tokens to take from it and their places in the flat result."""
        touched = np.unique(where)
        if len(touched) == 1:
            yield self._batches[touched[0]], ranges(begins, sizes), slice(None)
            return
        places = np.cumsum(sizes) - sizes
        for number in touched:
            spans = np.flatnonzero(where == number)
            taken = ranges(begins[spans], sizes[spans])
            yield self._batches[number], taken, ranges(places[spans], sizes[spans])


class _TokenBatch(NamedTuple):
    """The buffers of one record batch: n documents of t tokens."""

    ids: NDArray[Any]  # (t,) uint16 or uint32
    words: NDArray[np.uint8]  # (t / 8,), bit i % 8 of byte i // 8 belongs to token i
    sentences: NDArray[np.uint8]  # (t / 8,)


def _map_shard(
    folder: Path, shard: ShardEntry
) -> Iterator[tuple[_TokenBatch, Indices, NDArray[np.int16], NDArray[np.uint64]]]:
    """Yield each record batch, memory-mapped: tokens, offsets (n + 1,), source numbers (n,), content hashes (n,)."""
    import pyarrow as pa

    path = folder / shard["file"]
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            columns = {name: batch.column(name) for name in batch.schema.names}
            ids = columns["ids"].values
            words = np.frombuffer(columns["word_starts"].values.buffers()[1], np.uint8)
            sentences = np.frombuffer(columns["sentence_starts"].values.buffers()[1], np.uint8)
            yield (
                _TokenBatch(ids.to_numpy(zero_copy_only=True), words, sentences),
                columns["ids"].offsets.to_numpy(zero_copy_only=True),
                columns["source"].to_numpy(zero_copy_only=True),
                columns["content_hash"].to_numpy(zero_copy_only=True),
            )
    except (pa.ArrowException, OSError, KeyError) as error:
        raise StoreError(f"store: {path} is no shard of a token store ({error}); prepare it again") from None


def _bits(packed: NDArray[np.uint8], index: Indices) -> NDArray[np.bool_]:
    """Return the bits at `index`, (T,) bool; bit i % 8 of byte i // 8 belongs to entry i."""
    shift = (index & 7).astype(np.uint8)
    return ((packed[index >> 3] >> shift) & np.uint8(1)).view(np.bool_)
