"""Reading a token store: documents as memory-mapped NumPy views, gathered by the thousand without a Python loop.

N documents, T gathered tokens. Opening maps the index of the store (`index.py`), whatever its size: it takes no memory
of the process for a document. Index and tokens stay on disk and in the page cache, which all processes share. A shard
is mapped when a document of it is first asked for. A store pickles as its path.

`gather` copies spans of documents into one flat array, by addresses in the Arrow buffers; `pyarrow.compute.take` on
lists is two orders of magnitude slower. Cost: 10 ns a token for ids and word starts, if the pages are cached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unmask.config.settings import between_commas, counted
from unmask.data.compose.sequences import Indices, ranges
from unmask.data.documents import Chosen, LengthCounts, Members
from unmask.data.store.index import StoreIndex, cached_index, read_index, scan_shard
from unmask.data.store.manifest import (
    Manifest,
    ShardEntry,
    check_shards,
    fingerprint,
    read_manifest,
    require_documents,
)
from unmask.errors import StoreError
from unmask.paths import address_of, require_utf8

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from unmask.data.store.remote import RemoteStore, StoreCache
    from unmask.data.tokenizer import Tokenizer

__all__ = ["Store"]

# hashing this much takes 0.1 s, so a store up to this size is verified at every opening
_HASHED_ALWAYS_BYTES = 1 << 27
# a mapped shard holds a file descriptor, of which a process may have 1,024
_MOST_MAPPED = 256
_TRIES = 10


class Store:
    """A token store, opened with `Store.open`.

    Attributes:
        folder: its path; of a store on another machine, that of its part in the cache (`remote.py`).
        location: what was opened, for messages: the folder, or the address without keys.
        manifest: the contents of `manifest.json`.
        fingerprint: SHA-256 of the contents: tokens in order, sources, tokenizer.
        num_documents, num_tokens: N, and the tokens of all documents without [CLS] and [SEP].
        sources: their names, by number.
        tokenizer_hash, vocab_size: of the tokenizer that made the ids.
        special_ids: ids of pad, unk, cls, sep, mask.
        added_special_ids: ids of the other special tokens, ascending.
        segmenter: what joined ideographs to words, such as "rjieba 0.2.2"; empty if each is a word.
        lengths: tokens of each document without [CLS] and [SEP], (N,) int32, mapped.
        source_of: number of its source in `sources`, (N,) int16, mapped.
    """

    def __init__(self, folder: Path, manifest: Manifest, index: StoreIndex, remote: RemoteStore | None = None) -> None:
        self.folder = folder
        self.location = str(folder) if remote is None else remote.name
        self._remote = remote
        self.manifest = manifest
        self.fingerprint = fingerprint(manifest)
        self.num_documents, self.num_tokens = manifest["documents"], manifest["tokens"]
        self.sources = [source["name"] for source in manifest["sources"]]
        self.tokenizer_hash, self.vocab_size = manifest["tokenizer_hash"], manifest["vocab_size"]
        self.special_ids = dict(manifest["special_ids"])
        self.added_special_ids = list(manifest.get("added_special_ids", ()))
        self.segmenter = manifest.get("segmenter", "")
        self.lengths: NDArray[np.int32] = index.lengths
        self.source_of: NDArray[np.int16] = index.sources
        self._index = index
        self._firsts: Indices = np.ascontiguousarray(index.batches["first"])
        self._shard_of: list[int] = index.batches["shard"].tolist()
        self._shards = _MappedShards(folder, manifest["shards"], remote)
        self._dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        self._held_out: dict[float, Chosen] = {}

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool | None = None, cache: StoreCache | None = None) -> Store:
        """Open a store after checking it against its manifest.

        Args:
            folder: the store: its folder, or an address of fsspec such as `s3://bucket/store`. Shards at an address are
                fetched when a document of them is asked for, and compared with their SHA-256 then.
            verify: whether to compare the SHA-256 of every shard, beside its size. Default: up to 128 MiB.
            cache: where shards of an address are kept. Default: the defaults of `unmask.data.store.StoreCache`.

        Raises:
            StoreError: there is no store; a shard is missing, truncated or altered; the format is newer; or an address
                cannot be read.
        """
        address = address_of(folder)
        if address is not None:
            return cls._at(address, verify, cache)
        if cache is not None:
            raise ValueError(
                f"store: cache is given, but {folder} is a folder of this machine, which needs none; leave cache out"
            )
        folder = Path(folder)
        require_utf8(str(folder))
        manifest = read_manifest(folder)
        small = sum(shard["bytes"] for shard in manifest["shards"]) <= _HASHED_ALWAYS_BYTES
        hashes = small if verify is None else verify
        check_shards(folder, manifest, hashes=hashes)
        return cls(folder, manifest, _index_of(folder, manifest, hashes=hashes))

    @classmethod
    def _at(cls, address: str, verify: bool | None, cache: StoreCache | None) -> Store:
        from unmask.data.store.remote import RemoteStore, StoreCache

        remote = RemoteStore(address, StoreCache() if cache is None else cache)
        manifest = remote.manifest
        require_documents(remote.name, manifest, sum(shard["documents"] for shard in manifest["shards"]))
        if verify:
            remote.verify()
        return cls(remote.folder, manifest, _index_of(remote.folder, manifest, hashes=bool(verify)), remote)

    def __repr__(self) -> str:
        return (
            f"<Store {self.location!r}: {counted(self.num_documents, 'document')}, {self.num_tokens:,} tokens, "
            f"vocabulary {self.vocab_size:,}, sources {', '.join(map(between_commas, self.sources))}>"
        )

    def __fspath__(self) -> str:
        # a store may be given where its folder may
        return str(self.folder) if self._remote is None else self._remote.address

    def __reduce__(self) -> tuple[Any, ...]:
        # the shards were verified when the store was first opened
        if self._remote is not None:
            return partial(Store.open, verify=False, cache=self._remote.cache), (self._remote.address,)
        return partial(Store.open, verify=False), (self.folder,)

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Check that `tokenizer` made this store.

        Raises:
            StoreError: another one did, so the ids mean other words.
        """
        if tokenizer.hash != self.tokenizer_hash:
            raise StoreError(
                f"store: {self.location} was made by tokenizer {self.tokenizer_hash[:12]}, got {tokenizer.hash[:12]}; "
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
                f"store: {self.location} holds no tokenizer, which a run needs; copy the folder of the one that made "
                f"its ids to {self.location}/tokenizer, or write the store with write_store(..., tokenizer=FOLDER)"
            )
        tokenizer = Tokenizer.load(self.folder / "tokenizer")
        if tokenizer.added_special_ids and tokenizer.hash != self.tokenizer_hash:
            names = ", ".join(map(tokenizer.token, tokenizer.added_special_ids[:3]))
            raise StoreError(
                f"store: {self.location} was made when special tokens such as {names} in a text were cut into pieces; "
                "prepare the text again"
            )
        self.require_tokenizer(tokenizer)
        return tokenizer

    @property
    def num_bytes(self) -> int:
        """The bytes of the store on disk; of one at an address, when all of it is in the cache."""
        rest = (path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".arrow")
        return sum(shard["bytes"] for shard in self.manifest["shards"]) + sum(path.stat().st_size for path in rest)

    @cached_property
    def content_hashes(self) -> NDArray[np.uint64]:
        """The hash of each document's text, (N,): read from all shards and kept, 8 bytes a document."""
        return np.concatenate(list(self.hash_batches()))

    def hash_batches(self) -> Iterator[NDArray[np.uint64]]:
        """Yield the content hashes of the documents of each record batch, (n,), in the order of the store."""
        for shard in self.manifest["shards"]:
            if self._remote is not None:
                self._remote.require([shard])
            for batch in scan_shard(self.folder, shard):
                yield batch.hashes

    def members(self, source: int) -> Members:
        """Return the documents of a source, by its number."""
        runs = slice(self._index.runs[source], self._index.runs[source + 1])
        size = self.manifest["sources"][source]["documents"]
        return Members(firsts=self._index.firsts[runs], befores=self._index.befores[runs], size=size)

    def length_counts(self, source: int) -> LengthCounts:
        """Return how many documents of a source, by its number, have each length."""
        rows = self._index.length_rows
        own = rows[np.searchsorted(rows["source"], source) : np.searchsorted(rows["source"], source, side="right")]
        return LengthCounts(np.ascontiguousarray(own["length"]), np.ascontiguousarray(own["count"]))

    def held_out(self, fraction: float) -> Chosen:
        """Return the held-out documents, about `fraction` of all, by the hash of their text.

        A document keeps its side if the corpus grows, is reordered or tokenised again, and copies of a text are on one
        side. At least one document is held out; if there are two different texts, at least one is not.

        Raises:
            ValueError: `fraction` is not in (0, 1).
        """
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"store: the held-out fraction must be above 0 and below 1, got {fraction}")
        if fraction not in self._held_out:
            # a run has one fraction, and asks for its documents again and again
            self._held_out = {fraction: self._index.held_out(fraction)}
        return self._held_out[fraction]

    def held_out_mask(self, fraction: float) -> NDArray[np.bool_]:
        """Return (N,) bool: True for the documents of `held_out`."""
        return self.held_out(fraction).mask(self.num_documents)

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
        ids = np.empty(sizes.sum(), self._dtype)
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
        where = np.searchsorted(self._firsts, rows, side="right") - 1
        return self._index.begins[rows] + first, sizes, where

    def _parts(
        self, begins: Indices, sizes: Indices, where: Indices
    ) -> Iterator[tuple[_TokenBatch, Indices, Indices | slice]]:
        """Yield each record batch with the tokens to take from it and their places in the flat result."""
        touched = np.unique(where)
        if self._remote is not None:
            self._shards.require(np.unique(self._index.batches["shard"][touched]).tolist())
        if len(touched) == 1:
            yield self._batch(int(touched[0])), ranges(begins, sizes), slice(None)
            return
        places = np.cumsum(sizes) - sizes
        for number in touched:
            spans = np.flatnonzero(where == number)
            taken = ranges(begins[spans], sizes[spans])
            yield self._batch(int(number)), taken, ranges(places[spans], sizes[spans])

    def _batch(self, number: int) -> _TokenBatch:
        shard = self._shards[self._shard_of[number]]
        if number not in shard.batches:
            row = self._index.batches[number]
            tokens = int(row["tokens"])
            flags = -(-tokens // 8)
            ids, words, sentences = (int(row[name]) for name in ("ids", "words", "sentences"))
            shard.batches[number] = _TokenBatch(
                ids=shard.mapped[ids : ids + tokens * self._dtype.itemsize].view(self._dtype),
                words=shard.mapped[words : words + flags],
                sentences=shard.mapped[sentences : sentences + flags],
            )
        return shard.batches[number]


class _TokenBatch(NamedTuple):
    """The buffers of one record batch: n documents of t tokens."""

    ids: NDArray[Any]  # (t,) uint16 or uint32
    words: NDArray[np.uint8]  # (t / 8,), bit i % 8 of byte i // 8 belongs to token i
    sentences: NDArray[np.uint8]  # (t / 8,)


class _MappedShard(NamedTuple):
    """The bytes of a shard, and the record batches in it that were asked for, by number."""

    mapped: NDArray[np.uint8]
    batches: dict[int, _TokenBatch]


class _MappedShards:
    """Shards, mapped when they are first asked for; the least recently used ones are let go."""

    def __init__(self, folder: Path, shards: Sequence[ShardEntry], remote: RemoteStore | None) -> None:
        self._folder, self._entries, self._remote = folder, shards, remote
        self._mapped: OrderedDict[int, _MappedShard] = OrderedDict()

    def require(self, numbers: Sequence[int]) -> None:
        """Fetch shards of another machine together, if the cache has room for them."""
        if self._remote is not None and len(numbers) <= self._remote.most_mapped:
            self._remote.require([self._entries[number] for number in numbers if number not in self._mapped])

    def __getitem__(self, number: int) -> _MappedShard:
        if number in self._mapped:
            self._mapped.move_to_end(number)
            return self._mapped[number]
        found = _MappedShard(self._map(self._entries[number]), {})
        self._mapped[number] = found
        if len(self._mapped) > (_MOST_MAPPED if self._remote is None else min(_MOST_MAPPED, self._remote.most_mapped)):
            self._mapped.popitem(last=False)
        return found

    def _map(self, shard: ShardEntry) -> NDArray[np.uint8]:
        path = self._folder / shard["file"]
        for _ in range(1 if self._remote is None else _TRIES):
            if self._remote is not None:
                self._remote.require([shard])
            try:
                return np.asarray(np.memmap(path, np.uint8, "r"))
            except FileNotFoundError as error:
                # another process may have removed it from a full cache between the two lines
                failed: Exception = error
            except (OSError, ValueError) as error:
                failed = error
                break
        raise StoreError(f"store: {path} cannot be read any more ({failed}); copy the store again, or prepare it anew")


def _index_of(folder: Path, manifest: Manifest, *, hashes: bool) -> StoreIndex:
    found = read_index(folder, manifest, hashes=hashes)
    if found is not None:
        return found
    from unmask.data.text.docstrings import cache_folder

    return cached_index(folder, manifest, cache_folder())


def _bits(packed: NDArray[np.uint8], index: Indices) -> NDArray[np.bool_]:
    """Return the bits at `index`, (T,) bool; bit i % 8 of byte i // 8 belongs to entry i."""
    shift = (index & 7).astype(np.uint8)
    return ((packed[index >> 3] >> shift) & np.uint8(1)).view(np.bool_)
