"""Memory that a program's threads share, and the rule that it may break: what one warp writes, another reads or writes
only behind a barrier.

A word remembers in which stretch between two barriers, and by which warp, it was last written and read. Threads of a
warp are taken to run together. The interpreter of Triton cannot see such races: it has one thread.
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
        data: uint8 (bytes,).
        unfenced: for each word, whether an ordinary store wrote it since the last fence before the tensor cores.
        written, writer: for each word, the stretch and the warp of its last write; readers likewise.
    """

    def __init__(self, name: str, data: NDArray[np.uint8], valid: NDArray[np.bool_], found: Counter[str]) -> None:
        self.name, self.data, self.found = name, data, found
        self._valid = valid
        words = len(data) // _WORD + 1
        self.written, self.writer, self._read, self._reader = (np.full(words, _NOBODY, np.int64) for _ in range(4))
        self.unfenced = np.zeros(words, np.bool_)

    def check(self, places: NDArray[np.int64], what: str) -> None:
        """All of these bytes must exist."""
        inside = (places >= 0) & (places < len(self.data))
        if not inside.all() or not self._valid[places].all():
            raise IndexError(f"ptx: {self.name} memory is accessed out of bounds by {what}")

    def words(self, first: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """The words of `length` bytes from each place on, (places, words)."""
        return (first[:, None] + np.arange(0, length, _WORD)) // _WORD

    def load(self, first: NDArray[np.int64], length: int, warps: NDArray[Any], stretch: int, what: str) -> Any:
        """uint8 (places, length), read by one warp for each place."""
        places = first[:, None] + np.arange(length)
        self.check(places, what)
        words = self.words(first, length)
        self.reads(words, np.broadcast_to(warps[:, None], words.shape), stretch, what)
        return self.data[places]

    def store(
        self, first: NDArray[np.int64], values: NDArray[np.uint8], warps: NDArray[Any], stretch: int, what: str
    ) -> NDArray[np.int64]:
        """Write uint8 (places, length); returns the words."""
        places = first[:, None] + np.arange(values.shape[1])
        self.check(places, what)
        words = self.words(first, values.shape[1])
        self.writes(words, np.broadcast_to(warps[:, None], words.shape), stretch, what)
        self.data[places] = values
        return words

    def reads(self, words: NDArray[np.int64], warps: NDArray[Any], stretch: int, what: str) -> None:
        """Note a read, and that nobody else has written since the last barrier."""
        if ((self.written[words] == stretch) & (self.writer[words] != warps)).any():
            self.found[f"{self.name} memory that another warp wrote is read without a barrier: {what}"] += 1
        shared = (self._read[words] == stretch) & (self._reader[words] != warps)
        self._reader[words] = np.where(shared, _SEVERAL, warps)
        self._read[words] = stretch

    def writes(self, words: NDArray[np.int64], warps: NDArray[Any], stretch: int, what: str) -> None:
        """Note a write, and that nobody else has written or read since the last barrier."""
        if ((self.written[words] == stretch) & (self.writer[words] != warps)).any():
            self.found[f"{self.name} memory that another warp wrote is written without a barrier: {what}"] += 1
        if ((self._read[words] == stretch) & (self._reader[words] != warps)).any():
            self.found[f"{self.name} memory that another warp read is written without a barrier: {what}"] += 1
        self.writer[words] = warps
        self.written[words] = stretch

    def read_by_all(self, words: NDArray[np.int64], stretch: int) -> None:
        """Note a read by several warps together."""
        self._read[words], self._reader[words] = stretch, _SEVERAL
