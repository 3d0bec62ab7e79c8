"""Content hashes that came before, for `--drop-duplicates`: in files instead of memory.

    table      2^20, 2^21, 2^22, ... places of 8 bytes, mapped from a file without a name; at most half of them filled
    lookup     in each table from the place that the first bits of the hash name, up to an empty place

A full table stays as it is and the next one is twice as large, so nothing is ever moved. The pages belong to the page
cache, and the kernel writes them to the disk when memory is short.

Cost: 16 to 32 bytes of disk a document, none of memory; about 1 us a document.
"""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path
from types import TracebackType

__all__ = ["SeenHashes"]

_FIRST_BITS = 20
_BYTES = 8


class SeenHashes:
    """A context with a set of 64-bit hashes.

    Args:
        folder: where the files lie, which have no names and go with the process. Default: the temporary folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._tables: list[_Table] = []
        self._has_zero = False

    def __enter__(self) -> SeenHashes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for table in self._tables:
            table.close()

    def __contains__(self, hashed: int) -> bool:
        # zero stands for an empty place
        if not hashed:
            return self._has_zero
        # most copies of a document are in the largest table
        return any(table.find(hashed) is None for table in reversed(self._tables))

    def add(self, hashed: int) -> None:
        """Add a hash that is not in the set."""
        if not hashed:
            self._has_zero = True
            return
        if not self._tables or self._tables[-1].is_full:
            self._tables.append(_Table(_FIRST_BITS + len(self._tables), self._folder))
        self._tables[-1].add(hashed)


class _Table:
    """A hash table with linear probing."""

    def __init__(self, bits: int, folder: Path | None) -> None:
        self._shift, self._mask = 64 - bits, (1 << bits) - 1
        self._count = 0
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(_BYTES << bits)
            self._memory = mmap.mmap(file.fileno(), _BYTES << bits)
        self._places = memoryview(self._memory).cast("Q")

    @property
    def is_full(self) -> bool:
        """Whether half of the places are filled, so that searches stay short."""
        return 2 * self._count > self._mask

    def find(self, hashed: int) -> int | None:
        """Return the empty place for a hash, or None if it is here."""
        place = hashed >> self._shift
        while (there := self._places[place]) != hashed:
            if not there:
                return place
            place = (place + 1) & self._mask
        return None

    def add(self, hashed: int) -> None:
        place = self.find(hashed)
        assert place is not None
        self._places[place] = hashed
        self._count += 1

    def close(self) -> None:
        self._places.release()
        self._memory.close()
