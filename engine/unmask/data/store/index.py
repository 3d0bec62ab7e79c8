"""The index of a token store: what the stream asks about each document, in arrays that are mapped and not loaded.

    index/
        index.json       the fingerprint of its store; size and SHA-256 of each array; bounds of the sources
        documents.npy    a row for each document: where it begins in its record batch, its tokens, its source
        batches.npy      a row for each record batch: its first document, its shard, its tokens, its bytes in the shard
        hashes.npy       a row for each document with its hash, tokens, source and place, sorted by hash in each stretch
                         of 65,536 documents: the held-out documents of a stretch are its first rows
        firsts.npy       the documents of each source as runs of neighbours: the first document of each run,
        befores.npy      and the documents of the source before the run
        lengths.npy      a row for each source and length: how many documents of the source have so many tokens

The arrays follow from the shards, so an index is no part of a store's fingerprint. `publish` puts one into each new
store. A store without one, of an early version, gets one when it is opened: in memory up to a million documents, else
in the user's cache folder.

Cost: 32 bytes of disk a document and none of memory; about 1 s to build for a million documents.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from unmask.data.documents import Chosen
from unmask.data.store.manifest import Manifest, ShardEntry, fingerprint, require_documents
from unmask.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unmask.data.compose.sequences import Indices

__all__ = [
    "ARRAYS",
    "FACTS",
    "INDEX",
    "IndexFacts",
    "StoreIndex",
    "build_index",
    "cached_index",
    "facts_of",
    "read_index",
    "scan_shard",
]

INDEX = "index"
"""The folder of the index in a store."""

FACTS = "index.json"
"""The file that describes the arrays of an index."""

STRETCH = 1 << 16
"""Documents whose hashes are sorted together."""

_FORMAT = 2
_DOCUMENT = np.dtype({"names": ["begin", "length", "source"], "formats": ["<i8", "<i4", "<i2"], "itemsize": 16})
_HASH = np.dtype([("hash", "<u8"), ("length", "<i4"), ("source", "<i2"), ("place", "<u2")])
_BATCH = np.dtype([(name, "<i8") for name in ("first", "shard", "tokens", "ids", "words", "sentences")])
_LENGTH = np.dtype([(name, "<i8") for name in ("source", "length", "count")])
ARRAYS = {
    "documents": _DOCUMENT,
    "batches": _BATCH,
    "hashes": _HASH,
    "firsts": np.dtype("<i8"),
    "befores": np.dtype("<i8"),
    "lengths": _LENGTH,
}
# an index of so many documents is made in a second and takes 30 MB of memory
_IN_MEMORY = 1 << 20
_RUNS_AT_ONCE = 1 << 20
# the bound of the held-out hashes is looked for in this much more than their expected number
_SPARE = 1.25


class IndexFacts(TypedDict):
    """The contents of `index.json`."""

    format: int
    store: str
    documents: int
    smallest_hash: int
    largest_hash: int
    runs: list[int]
    files: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreIndex:
    """An opened index of N documents in B record batches and R runs; most arrays are mapped.

    Attributes:
        begins: first token of each document in its record batch, (N,) int64.
        lengths: tokens of each document, (N,) int32.
        sources: number of the source of each document, (N,) int16.
        batches: a row for each record batch, (B,), with the names of `batches.npy`.
        firsts, befores: the runs of all sources, one source after the other, (R,) int64 each.
        runs: runs of each source begin here, (sources + 1,).
        length_rows: a row for each source and length, by source and length.
    """

    begins: NDArray[np.int64]
    lengths: NDArray[np.int32]
    sources: NDArray[np.int16]
    batches: NDArray[Any]
    firsts: Indices
    befores: Indices
    runs: Sequence[int]
    length_rows: NDArray[Any]
    _hashes: NDArray[Any]
    _extremes: tuple[int, int]

    def held_out(self, fraction: float) -> Chosen:
        """Choose the documents with the lowest content hashes, about `fraction` of all.

        Only their rows are read, whatever the number of documents. The smallest hash is always among them, and the
        largest never, unless all are equal.
        """
        smallest, largest = self._extremes
        last = max(int(fraction * 2.0**64) - 1, smallest)
        if smallest != largest:
            last = min(last, largest - 1)
        bound = np.uint64(last)
        documents, rows = [], []
        for start in range(0, len(self._hashes), STRETCH):
            stretch = self._hashes[start : start + STRETCH]
            guess = int(_SPARE * fraction * STRETCH) + 64
            count = int(np.searchsorted(stretch["hash"][:guess], bound, side="right"))
            if count == guess:
                count = int(np.searchsorted(stretch["hash"], bound, side="right"))
            own = stretch[:count]
            own = own[np.argsort(own["place"])]
            documents.append(own["place"].astype(np.int64) + start)
            rows.append(own)
        every = np.concatenate(rows)
        return Chosen(np.concatenate(documents), every["source"].copy(), every["length"].copy())


def read_index(folder: Path, manifest: Manifest, *, hashes: bool) -> StoreIndex | None:
    """Map the index of a store; return None if there is none, or one of another store or of another version.

    Args:
        folder: the store, or the folder of the cache that has its index.
        manifest: of the store.
        hashes: whether to compare the SHA-256 of the arrays, beside their sizes.
    Raises:
        StoreError: the index is damaged.
    """
    place = folder / INDEX
    if not (place / FACTS).is_file():
        return None
    remedy = f"remove {place}, and the next opening makes it again"
    try:
        facts = facts_of(place, manifest)
        if facts is None:
            return None
        for name in ARRAYS:
            path, expected = place / f"{name}.npy", facts["files"][f"{name}.npy"]
            if path.stat().st_size != expected["bytes"] or (hashes and _sha256(path) != expected["sha256"]):
                raise StoreError(f"store: {path} is damaged; {remedy}")
        arrays = {name: np.asarray(np.load(place / f"{name}.npy", mmap_mode="r")) for name in ARRAYS}
        return _opened(arrays, facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"store: {place} is damaged ({error}); {remedy}") from None


def facts_of(place: Path, manifest: Manifest) -> IndexFacts | None:
    """Read `index.json` in the folder of an index; return None if it is of another store or another version.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    facts = json.loads((place / FACTS).read_text(encoding="utf-8"))
    own = isinstance(facts, dict) and (facts.get("format"), facts.get("store")) == (_FORMAT, fingerprint(manifest))
    return cast("IndexFacts", facts) if own else None


def cached_index(folder: Path, manifest: Manifest, cache: Path | None) -> StoreIndex:
    """Return the index of a store that holds none: made in memory for few documents, else kept in the cache folder.

    Args:
        folder: the store.
        manifest: of the store.
        cache: folder for the index of a large store. If it is None or cannot be written, the index is in memory.
    """
    if cache is not None and manifest["documents"] > _IN_MEMORY:
        kept = cache / f"index-{fingerprint(manifest)[:16]}"
        try:
            found = read_index(kept, manifest, hashes=False)
            if found is None:
                _build_beside(folder, manifest, kept)
                found = read_index(kept, manifest, hashes=False)
        except OSError:
            # the cache cannot be written
            found = None
        if found is not None:
            return found
    with tempfile.TemporaryDirectory() as name:
        build_index(folder, manifest, Path(name))
        facts: IndexFacts = json.loads((Path(name) / INDEX / FACTS).read_text(encoding="utf-8"))
        return _opened({array: np.load(Path(name) / INDEX / f"{array}.npy") for array in ARRAYS}, facts)


def _build_beside(folder: Path, manifest: Manifest, kept: Path) -> None:
    """Build an index in the cache; of several processes that do so at once, the first one that is ready wins."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=f".{kept.name}-", ignore_cleanup_errors=True) as name:
        made = Path(name) / "made"
        build_index(folder, manifest, made)
        if (kept / INDEX).exists():
            # another process was faster, or an index of another version lies there
            shutil.rmtree(kept, ignore_errors=True)
        with suppress(FileExistsError):
            made.rename(kept)


def _opened(arrays: Mapping[str, NDArray[Any]], facts: IndexFacts) -> StoreIndex:
    documents = arrays["documents"]
    return StoreIndex(
        begins=documents["begin"],
        lengths=documents["length"],
        sources=documents["source"],
        # a row for each of some ten thousand documents: asked often, so kept in memory
        batches=np.array(arrays["batches"]),
        firsts=arrays["firsts"],
        befores=arrays["befores"],
        runs=facts["runs"],
        length_rows=arrays["lengths"],
        _hashes=arrays["hashes"],
        _extremes=(facts["smallest_hash"], facts["largest_hash"]),
    )


def build_index(folder: Path, manifest: Manifest, target: Path) -> None:
    """Build the index of the store in `folder` as `target/index`, from its shards, with constant memory.

    Raises:
        StoreError: a shard is none of a token store, or the manifest counts other documents.
        OSError: the disk refuses.
    """
    place = target / INDEX
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    shards = manifest["shards"]
    lengths = _Lengths()
    extremes: list[int] = []
    with (
        _ArrayFile(place, "documents") as documents,
        _ArrayFile(place, "batches") as batches,
        _ArrayFile(place, "hashes") as hashes,
        _Runs(place, len(manifest["sources"])) as runs,
    ):
        sorter = _HashSorter(hashes)
        for number, shard in enumerate(shards):
            for batch in scan_shard(folder, shard):
                rows = np.zeros(len(batch.sources), _DOCUMENT)
                rows["begin"], rows["length"], rows["source"] = (
                    batch.offsets[:-1],
                    np.diff(batch.offsets),
                    batch.sources,
                )
                row = np.zeros(1, _BATCH)
                row[0] = (documents.count, number, batch.offsets[-1], *batch.places)
                batches.append(row)
                runs.add(documents.count, rows["source"])
                lengths.add(rows["source"], rows["length"])
                documents.append(rows)
                sorter.add(batch.hashes, rows)
                extremes += [int(batch.hashes.min()), int(batch.hashes.max())]
                extremes = [min(extremes), max(extremes)]
        require_documents(folder, manifest, documents.count)
        sorter.finish()
        bounds = runs.sort(documents.count)
    with _ArrayFile(place, "lengths") as file:
        file.append(lengths.rows())
    files = {
        f"{name}.npy": {"bytes": (path := place / f"{name}.npy").stat().st_size, "sha256": _sha256(path)}
        for name in ARRAYS
    }
    facts = IndexFacts(
        format=_FORMAT,
        store=fingerprint(manifest),
        documents=manifest["documents"],
        smallest_hash=min(extremes),
        largest_hash=max(extremes),
        runs=bounds,
        files=files,
    )
    (place / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedBatch:
    """What a record batch of n documents says about them, without their tokens.

    Attributes:
        offsets: first token of each document, and the end, (n + 1,).
        sources: numbers of their sources, (n,).
        hashes: content hashes, (n,).
        places: where ids, word starts and sentence starts begin in the file, in bytes.
    """

    offsets: Indices
    sources: NDArray[np.int16]
    hashes: NDArray[np.uint64]
    places: tuple[int, int, int]


def scan_shard(folder: Path, shard: ShardEntry) -> Iterator[ScannedBatch]:
    """Yield each record batch of a shard; its arrays are mapped.

    Raises:
        StoreError: the file is no shard.
    """
    import pyarrow as pa

    path = folder / shard["file"]
    try:
        with pa.memory_map(str(path)) as file:
            whole = file.read_buffer()
            reader = pa.ipc.open_file(pa.BufferReader(whole))
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                columns = {name: batch.column(name) for name in batch.schema.names}
                buffers = [
                    columns["ids"].values.buffers()[1],
                    columns["word_starts"].values.buffers()[1],
                    columns["sentence_starts"].values.buffers()[1],
                ]
                places = [buffer.address - whole.address for buffer in buffers]
                if not all(0 <= place < whole.size for place in places):
                    raise pa.ArrowInvalid("its columns are compressed")
                yield ScannedBatch(
                    offsets=columns["ids"].offsets.to_numpy(zero_copy_only=True),
                    sources=columns["source"].to_numpy(zero_copy_only=True),
                    hashes=columns["content_hash"].to_numpy(zero_copy_only=True),
                    places=(places[0], places[1], places[2]),
                )
    except (pa.ArrowException, OSError, KeyError) as error:
        raise StoreError(f"store: {path} is no shard of a token store ({error}); prepare it again") from None


class _ArrayFile:
    """A context that writes an `.npy` file by parts; its length is known at the end."""

    def __init__(self, folder: Path, name: str) -> None:
        self.count = 0
        self._dtype = ARRAYS[name]
        self._file: IO[bytes] = (folder / f"{name}.npy").open("wb")
        self._write_header()

    def __enter__(self) -> _ArrayFile:
        return self

    def append(self, rows: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self.count += len(rows)

    def __exit__(self, *error: object) -> None:
        # NumPy leaves room in the header for any length
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, header)


class _HashSorter:
    """Sorts the documents of each stretch by their content hashes."""

    def __init__(self, file: _ArrayFile) -> None:
        self._file = file
        self._stretch = np.empty(STRETCH, _HASH)
        self._stretch["place"] = np.arange(STRETCH)
        self._filled = 0

    def add(self, hashes: NDArray[np.uint64], documents: NDArray[Any]) -> None:
        while len(hashes):
            taken = slice(0, STRETCH - self._filled)
            into = self._stretch[self._filled : self._filled + len(hashes[taken])]
            into["hash"] = hashes[taken]
            into["length"], into["source"] = documents["length"][taken], documents["source"][taken]
            self._filled += len(into)
            hashes, documents = hashes[len(into) :], documents[len(into) :]
            if self._filled == STRETCH:
                self.finish()

    def finish(self) -> None:
        stretch = self._stretch[: self._filled]
        self._file.append(stretch[np.argsort(stretch["hash"], kind="stable")])
        self._filled = 0


class _Lengths:
    """Counts the documents of each source and length."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, sources: NDArray[np.int16], lengths: NDArray[np.int32]) -> None:
        keys, counts = np.unique(sources.astype(np.int64) << 32 | lengths, return_counts=True)
        self._counts.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))

    def rows(self) -> NDArray[Any]:
        keys = np.array(sorted(self._counts), np.int64)
        rows = np.zeros(len(keys), _LENGTH)
        rows["source"], rows["length"] = keys >> 32, keys & 0xFFFFFFFF
        rows["count"] = [self._counts[key] for key in keys.tolist()]
        return rows


class _Runs:
    """Finds the runs of each source, first in the order of the store in a temporary file, then source by source."""

    def __init__(self, folder: Path, sources: int) -> None:
        self._folder = folder
        self._counts = np.zeros(sources, np.int64)
        self._last = -1
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def __enter__(self) -> _Runs:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, first: int, sources: NDArray[np.int16]) -> None:
        """Take the sources of the next documents, of which `first` is the first."""
        changes = np.flatnonzero(np.diff(sources, prepend=np.int16(self._last)))
        self._last = int(sources[-1])
        found = sources[changes].astype(np.int64)
        self._counts += np.bincount(found, minlength=len(self._counts))
        self._file.write(np.stack([changes + first, found], axis=1).tobytes())

    def sort(self, documents: int) -> list[int]:
        """Write `firsts` and `befores`; return where the runs of each source begin."""
        total = int(self._counts.sum())
        bounds = np.concatenate([[0], np.cumsum(self._counts)])
        firsts, befores = (
            np.lib.format.open_memmap(self._folder / f"{name}.npy", "w+", np.dtype("<i8"), (total,))
            for name in ("firsts", "befores")
        )
        self._file.seek(0)
        # the next free place of each source, and its documents so far
        place, members = bounds[:-1].copy(), np.zeros(len(self._counts), np.int64)
        rows = self._next_rows()
        while len(rows):
            following = self._next_rows()
            end = following[0, 0] if len(following) else documents
            sizes = np.diff(rows[:, 0], append=end)
            order = np.argsort(rows[:, 1], kind="stable")
            source, size = rows[order, 1], sizes[order]
            begins = np.flatnonzero(np.diff(source, prepend=-1))
            group = np.repeat(begins, np.diff(begins, append=len(source)))
            before = np.cumsum(size) - size
            target = place[source] + np.arange(len(source)) - group
            firsts[target], befores[target] = rows[order, 0], members[source] + before - before[group]
            place += np.bincount(source, minlength=len(place))
            members += np.bincount(source, weights=size, minlength=len(place)).astype(np.int64)
            rows = following
        for array in (firsts, befores):
            array.flush()
        return [int(bound) for bound in bounds]

    def _next_rows(self) -> NDArray[np.int64]:
        return np.frombuffer(self._file.read(16 * _RUNS_AT_ONCE), np.int64).reshape(-1, 2)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
