"""One iteration of a `PackedDataset` in one worker: micro-batches start + first + n step of an epoch, and its state.

The state is the position in plain numbers: `epoch`, in which micro-batches are counted; `start`, from which on they are
shared out to `workers` workers of `world_size` ranks; `taken`, the items of this worker since; `last`, the number and
the cursor of the last one, from which a stream goes on without planning the blocks before it.
"""

from collections.abc import Callable, Iterator
from typing import Any

from unmask.batch import Cursor, PackedBatch
from unmask.data.flat import flat_inputs
from unmask.data.stream.stream import Stream

__all__ = ["Reading", "continued"]


class Reading(Iterator[Any]):
    """The items of one worker.

    Attributes:
        epoch: the epoch that it began with.
        over: whether the epoch has been read to its end.
    Args:
        stream: counted from the beginning of the epoch.
        state: where to begin.
        first: this worker's place in a round of all workers of all ranks.
        step: items of a round.
        rest: ranks behind this one, if an epoch ends with a whole round of ranks; else 0.
        flat: whether items are dictionaries.
        ended: called when the epoch has been read to its end.
    """

    def __init__(
        self,
        stream: Stream,
        state: dict[str, Any],
        *,
        first: int,
        step: int,
        rest: int,
        flat: bool,
        ended: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._state = state
        self._step = step
        self._rest = rest
        self._flat = flat
        self._ended = ended
        self.epoch: int = state["epoch"]
        self.over = False
        self._index = state["start"] + first + state["taken"] * step
        if state["last"] is not None:
            number, *cursor = state["last"]
            stream.remember(number, Cursor(*cursor))
        self._arrays = stream.arrays(self._index, step)
        # A loader may keep the state before the end and yet know that it has ended. So the end is noted here, before
        # the loader begins the next iteration, and not when the next item is asked for.
        self._end_if_over()

    def __next__(self) -> PackedBatch | dict[str, Any]:
        self._end_if_over()
        if self.over:
            raise StopIteration
        arrays = next(self._arrays)
        self._state["taken"] += 1
        self._state["last"] = [self._index, *arrays.cursor]
        self._index += self._step
        batch = self._stream.to_batch(arrays)
        return flat_inputs(batch, self._stream.pair_task) if self._flat else batch

    def state(self) -> dict[str, Any]:
        """Return the state after the last item."""
        return dict(self._state)

    def _end_if_over(self) -> None:
        if self.over:
            return
        try:
            self._stream.locate(self._index + self._rest)
        except IndexError:
            self.over = True
            self._ended()


def continued(state: dict[str, Any], workers: int, world_size: int) -> dict[str, Any]:
    """Return a state as this many workers and ranks go on from it.

    Raises:
        ValueError: it was taken by several workers, and by another number of workers or ranks.
    """
    if state["workers"] == 1:
        # one worker has taken the micro-batches of all ranks without a gap
        start = state["start"] + state["taken"] * state["world_size"]
        state = state | {"start": start, "taken": 0}
    elif (state["workers"], state["world_size"]) != (workers, world_size):
        raise ValueError(
            f"PackedDataset: the state was taken with {state['workers']} workers and world_size {state['world_size']}, "
            f"got {workers} and {world_size}; continue with the same numbers: num_workers={state['workers']} of the "
            f"loader, and {state['world_size']} processes"
        )
    return state | {"workers": workers, "world_size": world_size}
