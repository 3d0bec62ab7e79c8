"""Which instruction each thread of a block executes next: divergence, reconvergence, and threads that wait.

Threads at the same instruction execute it together. Of several such groups the one at the lowest instruction goes
first, so threads that branched ahead wait where the branches meet again, as compilers lay code out. PTX promises
nothing more than this: an instruction that needs other threads (`.sync`) waits until they have come to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Groups"]

Mask = NDArray[np.bool_]


class Groups:
    """The groups of a block.

    Attributes:
        everybody: true for all threads; a group of all threads is this very object.
        ended: threads that have returned.
    """

    def __init__(self, threads: int) -> None:
        """Begin with so many threads at the first instruction; lanes that fill the last warp do not exist."""
        self.everybody = np.ones(-(-threads // 32) * 32, np.bool_)
        self.ended = np.zeros_like(self.everybody)
        present = np.arange(len(self.everybody)) < threads
        self._ready: dict[int, Mask] = {0: self.everybody if present.all() else present}
        self._held: dict[int, Mask] = {}
        self._at_barrier: dict[int, Mask] = {}

    def first(self) -> tuple[int, Mask] | None:
        """Return the instruction of the group that goes next, and its threads; None if no thread can go on."""
        if not self._ready:
            return None
        position = min(self._ready)
        return position, self._ready[position]

    def go(self, position: int, threads: Mask, to: int) -> None:
        """Let threads of the group at `position` go on at `to`."""
        self._take(position, threads)
        self._join(to, threads)

    def end(self, position: int, threads: Mask) -> None:
        """Let threads of the group at `position` return."""
        self._take(position, threads)
        self.ended = self.ended | threads

    def hold(self, position: int, threads: Mask) -> None:
        """Keep threads at an instruction until others have come to it."""
        self._take(position, threads)
        self._held[position] = threads | self._held.get(position, np.zeros_like(threads))

    def arrive(self, position: int, threads: Mask) -> dict[int, Mask] | None:
        """Keep threads at a barrier of the block.

        Returns:
            None, or with the last thread that has not returned, where the threads of the block wait.
        """
        self._take(position, threads)
        self._at_barrier[position] = threads | self._at_barrier.get(position, np.zeros_like(threads))
        if self._ready or self._held:
            return None
        found, self._at_barrier = self._at_barrier, {}
        for place, waited in found.items():
            self._join(place + 1, waited)
        return found

    def waiting(self) -> list[int]:
        """Return the instructions at which threads wait for others."""
        return sorted({*self._held, *self._at_barrier})

    def _take(self, position: int, threads: Mask) -> None:
        group = self._ready.pop(position)
        if group is not threads:
            rest = group & ~threads
            if rest.any():
                self._ready[position] = rest

    def _join(self, position: int, threads: Mask) -> None:
        for groups in (self._ready, self._held):
            if position in groups:
                threads = threads | groups.pop(position)
        self._ready[position] = self.everybody if threads is self.everybody or threads.all() else threads
