"""Memory that the threads of a program share, with a check for races.

The rule: what one warp writes, another warp may read or write only after a barrier. Memory records for each word which
warp last wrote it and last read it, and how many barriers the program had passed then. The threads of a warp count as
one. Triton's interpreter cannot find such races: it runs one thread.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Memory"]

_NOBODY, _SEVERAL = -1, -2
_WORD = 2  # bytes


class Memory:
    """Bytes with bounds and a history of accesses.

    Attributes:
        name: "global" or "shared", for messages.
        data: uint8 (bytes,).
        found: counts of faults, by description.
        unfenced: for each word, whether it was written after the last fence; wgmma may not read it.
        written: for each word, how many barriers the program had passed at its last write; likewise for the last read.
        writer: for each word, the warp that wrote it last; likewise for the last reader.
    """

    def __init__(self, name: str, data: NDArray[np.uint8], valid: NDArray[np.bool_], found: Counter[str]) -> None:
        self.name, self.data, self.found = name, data, found
        self._valid = valid
        words = len(data) // _WORD + 1
        self.written, self.writer, self._read, self._reader = (np.full(words, _NOBODY, np.int64) for _ in range(4))
        self.unfenced = np.zeros(words, np.bool_)

    def check(self, addresses: NDArray[np.int64], what: str) -> None:
        """Raise IndexError unless all of these bytes exist."""
        inside = (addresses >= 0) & (addresses < len(self.data))
        if not inside.all() or not self._valid[addresses].all():
            raise IndexError(f"ptx: {self.name} memory is accessed out of bounds by {what}")

    def words(self, first: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Return the words that `length` bytes from each address cover, (addresses, words)."""
        return (first[:, None] + np.arange(0, length, _WORD)) // _WORD

    def load(self, first: NDArray[np.int64], length: int, warps: NDArray[Any], barriers: int, what: str) -> Any:
        """Read uint8 (addresses, length); `warps` is the warp that reads at each address."""
        addresses = first[:, None] + np.arange(length)
        self.check(addresses, what)
        words = self.words(first, length)
        self.reads(words, np.broadcast_to(warps[:, None], words.shape), barriers, what)
        return self.data[addresses]

    def store(
        self, first: NDArray[np.int64], values: NDArray[np.uint8], warps: NDArray[Any], barriers: int, what: str
    ) -> NDArray[np.int64]:
        """Write uint8 (addresses, length), and return the words written."""
        addresses = first[:, None] + np.arange(values.shape[1])
        self.check(addresses, what)
        words = self.words(first, values.shape[1])
        self.writes(words, np.broadcast_to(warps[:, None], words.shape), barriers, what)
        self.data[addresses] = values
        return words

    def load_atomically(self, address: int, length: int, warp: int, what: str) -> NDArray[np.uint8]:
        """Read a counter, uint8 (length,)."""
        self.check(np.arange(address, address + length), what)
        return self.data[address : address + length].copy()

    def store_atomically(self, address: int, value: NDArray[np.uint8], warp: int, what: str) -> None:
        """Write a counter that was read just before."""
        self.data[address : address + len(value)] = value

    def acquire(self, address: int, warp: int) -> None:
        """Note that a warp acquires what was published at a counter; here only barriers order accesses."""

    def release(self, address: int, warp: int) -> None:
        """Note that a warp publishes what it knows at a counter."""

    def barrier(self, warps: NDArray[np.int64]) -> None:
        """Note that these warps have passed a barrier."""

    def reads(self, words: NDArray[np.int64], warps: NDArray[Any], barriers: int, what: str) -> None:
        """Record a read, and a fault if another warp wrote there after the last barrier."""
        if ((self.written[words] == barriers) & (self.writer[words] != warps)).any():
            self.found[f"{self.name} memory that another warp wrote is read without a barrier: {what}"] += 1
        shared = (self._read[words] == barriers) & (self._reader[words] != warps)
        self._reader[words] = np.where(shared, _SEVERAL, warps)
        self._read[words] = barriers

    def writes(self, words: NDArray[np.int64], warps: NDArray[Any], barriers: int, what: str) -> None:
        """Record a write, and a fault if another warp wrote or read there after the last barrier."""
        if ((self.written[words] == barriers) & (self.writer[words] != warps)).any():
            self.found[f"{self.name} memory that another warp wrote is written without a barrier: {what}"] += 1
        if ((self._read[words] == barriers) & (self._reader[words] != warps)).any():
            self.found[f"{self.name} memory that another warp read is written without a barrier: {what}"] += 1
        self.writer[words] = warps
        self.written[words] = barriers

    def read_by_all(self, words: NDArray[np.int64], barriers: int) -> None:
        """Record a read by several warps at once."""
        self._read[words], self._reader[words] = barriers, _SEVERAL
