"""Global memory that all blocks of a launch share, with a check for races by what each warp knows of the others.

Each warp counts its steps and knows up to which step it has seen each other warp: a vector clock. A barrier of a block
joins the clocks of its warps. A release publishes a clock at the address of the counter, and an acquire of that counter
takes it over. An access is a race if the warp does not know of the last write there, or of a read before its own
write. Atomic accesses do not race with one another. The threads of a warp count as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline.ptx.memory import Memory

__all__ = ["OrderedMemory"]

_APART = 256  # bytes between pieces, so that an access beyond an end is found


class OrderedMemory(Memory):
    """Pieces of global memory, by their addresses.

    Attributes:
        pieces: the bytes at each address; `close` writes to them.
        constant: addresses of the pieces that nobody may write.
        warps: of all blocks together.
    """

    def __init__(
        self, pieces: Mapping[int, NDArray[np.uint8]], constant: frozenset[int], warps: int, found: Counter[str]
    ) -> None:
        self.pieces = dict(sorted(pieces.items()))
        self._starts = np.array([*self.pieces], np.int64)
        self._sizes = np.array([len(piece) for piece in self.pieces.values()], np.int64)
        lengths = -(-self._sizes // _APART) * _APART + _APART
        self._places = _APART + np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        data = np.zeros(_APART + int(lengths.sum()), np.uint8)
        valid, self._constant = (np.zeros(len(data), np.bool_) for _ in range(2))
        for (address, piece), place in zip(self.pieces.items(), self._places, strict=True):
            data[place : place + len(piece)], valid[place : place + len(piece)] = piece, True
            self._constant[place : place + len(piece)] = address in constant
        super().__init__("global", data, valid, found)
        self._known = np.zeros((warps, warps), np.int32)
        np.fill_diagonal(self._known, 1)
        self._published: dict[int, NDArray[np.int32]] = {}
        words = len(self.written)
        self._writer, self._written = np.zeros(words, np.int32), np.zeros(words, np.int32)
        self._atomic = np.zeros(words, np.bool_)
        # the last step of each warp that read a word; most pages of it are never touched
        self._reads = np.zeros((words, warps), np.int32)

    def close(self) -> None:
        """Write what the launch has left to the pieces."""
        for piece, place in zip(self.pieces.values(), self._places, strict=True):
            piece[:] = self.data[place : place + len(piece)]

    def place(self, first: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the bytes at these addresses lie in `data`; an address outside of all pieces gets -1."""
        at = np.searchsorted(self._starts, first, "right") - 1
        offset = first - self._starts[at]
        return np.where((at >= 0) & (offset < self._sizes[at]), self._places[at] + offset, -1)

    def barrier(self, warps: NDArray[np.int64]) -> None:
        """Let warps know what each of them knows."""
        self._known[warps] = self._known[warps].max(0)
        self._known[warps, warps] += 1

    def acquire(self, address: int, warp: int) -> None:
        """Let a warp know what was published at a counter."""
        if address in self._published:
            self._known[warp] = np.maximum(self._known[warp], self._published[address])

    def release(self, address: int, warp: int) -> None:
        """Publish at a counter what a warp knows."""
        before = self._published.get(address, self._known[warp])
        self._published[address] = np.maximum(before, self._known[warp])
        self._known[warp, warp] += 1

    def load_atomically(self, address: int, length: int, warp: int, what: str) -> NDArray[np.uint8]:
        """Read a counter, uint8 (length,)."""
        at = self._inside(np.array([address]), length, what)[0]
        word = at // 2
        if not self._atomic[word] and self._written[word] > self._known[warp, self._writer[word]]:
            self._race("is read after another warp wrote it", what)
        return self.data[at : at + length].copy()

    def store_atomically(self, address: int, value: NDArray[np.uint8], warp: int, what: str) -> None:
        """Write a counter that was read just before."""
        at = self._inside(np.array([address]), len(value), what)[0]
        words = np.arange(at // 2, (at + len(value)) // 2)
        if (self._reads[words] > self._known[warp]).any():
            self._race("is written after another warp read it", what)
        self._writer[words], self._written[words], self._atomic[words] = warp, self._known[warp, warp], True
        self.data[at : at + len(value)] = value

    def load(self, first: NDArray[np.int64], length: int, warps: NDArray[Any], barriers: int, what: str) -> Any:
        """Read uint8 (addresses, length); `warps` is the warp of the launch that reads at each address."""
        return super().load(self._inside(first, length, what), length, warps, barriers, what)

    def store(
        self, first: NDArray[np.int64], values: NDArray[np.uint8], warps: NDArray[Any], barriers: int, what: str
    ) -> NDArray[np.int64]:
        """Write uint8 (addresses, length), and return the words written."""
        places = self._inside(first, values.shape[1], what)
        if self._constant[places].any():
            self.found[f"global memory that is only read is written by {what}"] += 1
        return super().store(places, values, warps, barriers, what)

    def reads(self, words: NDArray[np.int64], warps: NDArray[Any], barriers: int, what: str) -> None:
        """Record a read, and a fault if the warp does not know of the last write."""
        writer = self._writer[words]
        if ((self._written[words] > self._known[warps, writer]) & (writer != warps)).any():
            self._race("is read after another warp wrote it", what)
        self._reads[words, warps] = self._known[warps, warps]

    def writes(self, words: NDArray[np.int64], warps: NDArray[Any], barriers: int, what: str) -> None:
        """Record a write, and a fault if the warp does not know of the last write, or of a read."""
        writer = self._writer[words]
        if ((self._written[words] > self._known[warps, writer]) & (writer != warps)).any():
            self._race("is written after another warp wrote it", what)
        others = self._reads[words] > self._known[warps]
        if others.any():
            self._race("is written after another warp read it", what)
        self._writer[words], self._written[words], self._atomic[words] = warps, self._known[warps, warps], False
        if (self._writer[words] != warps).any():
            self._race("is written by two warps at once", what)

    def _inside(self, first: NDArray[np.int64], length: int, what: str) -> NDArray[np.int64]:
        places = self.place(first)
        self.check(places[:, None] + np.arange(length), what)
        return places

    def _race(self, problem: str, what: str) -> None:
        self.found[f"race in global memory: it {problem}: {what}"] += 1
