"""One shard of a token store, an Arrow IPC file: written with its SHA-256 taken on the way, read as NumPy views."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unmask.data.store.manifest import ShardEntry
from unmask.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["ShardFile", "TokenBatch", "addresses", "bits", "map_shard", "sync"]


class TokenBatch(NamedTuple):
    """The buffers of one record batch: n documents of t tokens."""

    ids: NDArray[Any]  # (t,) uint16 or uint32
    words: NDArray[np.uint8]  # (t / 8,), bit i % 8 of byte i // 8 belongs to token i
    sentences: NDArray[np.uint8]  # (t / 8,)


class ShardFile:
    """One Arrow file being written, hashed on its way to the disk."""

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
    """What Arrow needs of a file that it writes from front to back, with the SHA-256 of all that passed."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.digest = hashlib.sha256()

    @property
    def closed(self) -> bool:
        return self.raw.closed

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.raw.write(data)

    def tell(self) -> int:
        return self.raw.tell()

    def flush(self) -> None:
        self.raw.flush()

    def finish(self) -> None:
        sync(self.raw)
        self.raw.close()

    def close(self) -> None:
        """Left to `finish`: Arrow closes what it is given, before it has been synced."""


def map_shard(
    folder: Path, shard: ShardEntry
) -> Iterator[tuple[TokenBatch, NDArray[np.int64], NDArray[np.int16], NDArray[np.uint64]]]:
    """Yields per record batch, memory-mapped: tokens, offsets (n + 1,), source numbers (n,), content hashes (n,).

    Raises:
        StoreError: the file is no shard of a store.
    """
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
                TokenBatch(ids.to_numpy(zero_copy_only=True), words, sentences),
                columns["ids"].offsets.to_numpy(zero_copy_only=True),
                columns["source"].to_numpy(zero_copy_only=True),
                columns["content_hash"].to_numpy(zero_copy_only=True),
            )
    except (pa.ArrowException, OSError, KeyError) as error:
        raise StoreError(f"store: {path} is no shard of a token store ({error}); prepare it again") from None


def addresses(begins: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns begins[0], begins[0] + 1, ... for sizes[0] entries, then those of the next span."""
    shifts = begins - (np.cumsum(sizes) - sizes)
    result = np.repeat(shifts, sizes)
    result += np.arange(result.size)
    return result


def bits(packed: NDArray[np.uint8], index: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Reads the bits at `index`, (T,) bool, of a bitmap with bit i % 8 of byte i // 8 for entry i."""
    shift = (index & 7).astype(np.uint8)
    lowest: NDArray[np.uint8] = (packed[index >> 3] >> shift) & np.uint8(1)
    return lowest.view(np.bool_)


def sync(stream: IO[Any]) -> None:
    """Flushes a file down to the disk."""
    stream.flush()
    os.fsync(stream.fileno())
