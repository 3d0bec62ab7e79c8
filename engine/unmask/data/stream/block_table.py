"""Where the blocks of a stream begin: a growing table of (block, number of its first micro-batch).

Block 0 begins at 0; the others are learned as they are planned or met. The table may have gaps.
"""

import bisect

__all__ = ["BlockTable"]


class BlockTable:
    """Sorted block numbers and the global number of the first micro-batch of each."""

    def __init__(self) -> None:
        self._blocks, self._starts = [0], [0]

    def at_or_before(self, index: int) -> tuple[int, int]:
        """Return the last known block that begins at or before micro-batch `index`, and where."""
        place = bisect.bisect_right(self._starts, index) - 1
        return self._blocks[place], self._starts[place]

    def learn(self, block: int, start: int) -> None:
        """Note that `block` begins at micro-batch `start`; raises ValueError if it begins elsewhere."""
        place = bisect.bisect_left(self._blocks, block)
        if place < len(self._blocks) and self._blocks[place] == block:
            known = self._starts[place]
            if known != start:
                raise ValueError(
                    f"stream: block {block} must begin at micro-batch {known}, was said to begin at {start}; "
                    "does the cursor come from another stream?"
                )
            return
        self._blocks.insert(place, block)
        self._starts.insert(place, start)
