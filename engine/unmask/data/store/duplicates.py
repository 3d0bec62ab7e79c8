"""Documents of a store that come more than once, by the hashes of their texts.

Copies of a document have the same hash, so all of them are held out or none: they do not leak into evaluation, but a
run reads them as often as they come.

The hashes of a large store are parted by their first bits into a temporary file, and each part is sorted by itself. So
the memory is the same for any number of documents. Cost: 0.1 s for a million documents, and 16 bytes of disk for each
while it is counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unmask.config.settings import between_commas
from unmask.data.store.reader import Store

__all__ = ["describe_duplicates"]

_SHOWN_TOKENS = 12
# documents that are sorted at once
_SORTED = 1 << 18
_ROW = np.dtype([("hash", "<u8"), ("document", "<i8")])
_Rows = npt.NDArray[np.void]


def describe_duplicates(store: Store) -> str:
    """Describe the copies in a line: how many, of which sources, and the text that comes most often; empty if none."""
    copies, most, first_of_most = 0, 1, 0
    by_source = np.zeros(len(store.sources), np.int64)
    # by ascending hash, so that of two texts that come equally often the one with the smaller hash is told
    for rows in _parted(store):
        _, first, counts = np.unique(rows["hash"], return_index=True, return_counts=True)
        is_copy = np.ones(len(rows), np.bool_)
        is_copy[first] = False
        copies += int(is_copy.sum())
        by_source += np.bincount(store.source_of[rows["document"][is_copy]], minlength=len(by_source))
        if len(counts) and counts.max() > most:
            most, first_of_most = int(counts.max()), int(rows["document"][first[np.argmax(counts)]])
    if not copies:
        return ""
    sources = ", ".join(
        f"{between_commas(name)} {count:,}" for name, count in zip(store.sources, by_source, strict=True) if count
    )
    share = f"{copies / store.num_documents:.1%}"
    are = "is a copy of an earlier one" if copies == 1 else "are copies of earlier ones"
    return (
        f"{copies:,} of {store.num_documents:,} documents {are}, {share} ({sources}); "
        f"{_beginning(store, first_of_most)!r} comes {most:,} times; --drop-duplicates keeps one of each "
        "(data.drop_duplicates of a run)"
    )


def _parted(store: Store) -> Iterator[_Rows]:
    """Yield parts of the documents in the order of their hashes, all of one hash in one part, with their numbers."""
    bits = max(0, (store.num_documents // _SORTED).bit_length())
    if not bits:
        yield np.concatenate(list(_rows(store)))
        return
    sizes = np.zeros(1 << bits, np.int64)
    for rows in _rows(store):
        sizes += np.bincount(_part(rows, bits), minlength=len(sizes))
    ends = np.cumsum(sizes)
    # the disk of the store has room for it, and /tmp may be memory
    with tempfile.TemporaryFile(dir=_beside(store.folder)) as file:
        file.truncate(store.num_documents * _ROW.itemsize)
        table = np.memmap(file, _ROW, "r+", shape=(store.num_documents,))
        places = ends - sizes
        for rows in _rows(store):
            part = _part(rows, bits)
            order = np.argsort(part, kind="stable")
            part = part[order]
            counts = np.bincount(part, minlength=len(places))
            table[places[part] + np.arange(len(part)) - (np.cumsum(counts) - counts)[part]] = rows[order]
            places += counts
        for start, end in zip(ends - sizes, ends, strict=True):
            yield np.array(table[start:end])


def _rows(store: Store) -> Iterator[_Rows]:
    first = 0
    for hashes in store.hash_batches():
        rows = np.empty(len(hashes), _ROW)
        rows["hash"], rows["document"] = hashes, np.arange(first, first + len(hashes))
        first += len(hashes)
        yield rows


def _part(rows: _Rows, bits: int) -> npt.NDArray[np.int64]:
    return (rows["hash"] >> np.uint64(64 - bits)).astype(np.int64)


def _beside(folder: Path) -> Path | None:
    """Return the folder around a store if it can be written, else None for the usual temporary folder."""
    try:
        with tempfile.TemporaryFile(dir=folder.parent):
            return folder.parent
    except OSError:
        return None


def _beginning(store: Store, document: int) -> str:
    length = int(store.lengths[document])
    row, start, shown = np.array([document]), np.array([0]), np.array([min(length, _SHOWN_TOKENS)])
    ids, _ = store.gather(row, start, shown)
    text = store.load_tokenizer().decode(ids.tolist(), skip_special_tokens=False)
    return text if length <= _SHOWN_TOKENS else f"{text} ..."
