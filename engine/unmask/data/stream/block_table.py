"""Where the windows of a stream begin: a growing table of (window, number of its first micro-batch).

Window 0 begins at 0; the others are learned as they are planned or met. The table may have gaps.
"""

import bisect

__all__ = ["WindowTable"]


class WindowTable:
    """Sorted window numbers and the global number of the first micro-batch of each."""

    def __init__(self) -> None:
        self._windows, self._starts = [0], [0]

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
                    f"stream: window {window} must begin at micro-batch {known}, was said to begin at {start}; "
                    "does the cursor come from another stream?"
                )
            return
        self._windows.insert(place, window)
        self._starts.insert(place, start)
