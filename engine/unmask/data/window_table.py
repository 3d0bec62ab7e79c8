"""Where the windows of a stream begin: a growing table of (window, number of its first micro-batch).

Window 0 begins at 0; the others are learned as they are planned or met. The table may have gaps. Given a
file, it is kept there, so that a later process need not plan what was planned before; a file that is missing,
damaged or cannot be written costs time and nothing else.
"""

import bisect
import os
from pathlib import Path

import numpy as np

__all__ = ["WindowTable"]


class WindowTable:
    """Sorted window numbers and the global number of the first micro-batch of each."""

    def __init__(self, file: Path | None = None) -> None:
        """Start with window 0, or with what `file` holds."""
        self._windows, self._starts = [0], [0]
        self._file = file
        # Forked workers plan the same windows; one writer is enough, and a worker may be killed while it
        # writes.
        self._writer = os.getpid()
        self._load()

    def at_or_before(self, index: int) -> tuple[int, int]:
        """Return the last known window that begins at or before micro-batch `index`, and where."""
        place = bisect.bisect_right(self._starts, index) - 1
        return self._windows[place], self._starts[place]

    def learn(self, window: int, start: int) -> None:
        """Note that `window` begins at micro-batch `start`; raises ValueError if it begins elsewhere."""
        place = bisect.bisect_left(self._windows, window)
        if place < len(self._windows) and self._windows[place] == window:
            known = self._starts[place]
            if known != start:
                raise ValueError(
                    f"stream: window {window} must begin at micro-batch {known}, was said to begin at "
                    f"{start}; "
                    "does the cursor come from another stream?"
                )
            return
        self._windows.insert(place, window)
        self._starts.insert(place, start)
        if self._file is not None and os.getpid() == self._writer:
            self._save(self._file)

    def _load(self) -> None:
        try:
            table = np.load(self._file, allow_pickle=False) if self._file is not None else np.zeros((2, 1))
        except (OSError, ValueError, EOFError):
            return
        if table.ndim != 2 or table.shape[0] != 2 or table[:, :1].any() or not table.shape[1]:
            return
        if (np.diff(table[0]) > 0).all() and (np.diff(table[1]) >= 0).all():
            self._windows, self._starts = (row.astype(np.int64).tolist() for row in table)

    def _save(self, file: Path) -> None:
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as handle:
                np.save(handle, np.array([self._windows, self._starts], dtype=np.int64))
            temporary.replace(file)
        except OSError:
            temporary.unlink(missing_ok=True)
            self._file = None
