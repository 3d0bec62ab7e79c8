"""Saves in the background: a thread copies the state and writes the copy, while the run trains.

    saves.begin(state, save, optimizer)     # after an update; waits for the save before it, starts the thread
    saves.check()                           # at each step: raises the error that ended the thread
    saves.wait()                            # at the end of the run

Only an update changes the state. So the thread copies while the next step goes forward and backward, and the update of
that step waits for the end of the copy. From a GPU, values are copied into pinned memory in the order of its queue,
before that update, and the thread waits for them. The copy lies in memory of the host that is kept for the next save:
as many bytes as the state, about 12 a parameter.

Only one save goes on at a time, so that a slow disk never fills the memory. A run whose next save has to wait says so.
The thread does not keep a process alive: after a second Ctrl-C the save is absent, as if the process had been killed.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

__all__ = ["BackgroundSaves"]

_log = logging.getLogger(__name__)

# a save that waits for less than this is not worth a message
_TOLD_SECONDS = 1.0


class BackgroundSaves:
    """Writes one state at a time."""

    def __init__(self) -> None:
        self._copy: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._hook: RemovableHandle | None = None
        self._error: BaseException | None = None
        self._told = False

    def begin(
        self,
        state: Iterable[tuple[str, Tensor]],
        save: Callable[[dict[str, Tensor]], object],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Copy a state and write the copy in the background, after the save before it.

        Args:
            state: names and tensors, on any device.
            save: writes the copy. It is called in a thread, and must only read what training leaves alone.
            optimizer: its next `step` changes the state.
        Raises:
            Exception: the save before failed, with its error.
        """
        began = time.monotonic()
        self.wait()
        waited = time.monotonic() - began
        if waited > _TOLD_SECONDS and not self._told:
            self._told = True
            _log.warning(
                f"checkpoint: a save waited {waited:.1f} seconds for the one before it to be written, and training "
                "waited with it; a larger train.save_every leaves time for it"
            )
        copy, here, ready = {}, [], None
        for name, value in state:
            copy[name] = place = _place_for(value, self._copy.get(name))
            if value.device.type == "cpu":
                here.append((place.numpy(), value.detach().numpy()))
            else:
                place.copy_(value.detach(), non_blocking=value.is_cuda)
            if value.is_cuda:
                ready = ready or torch.cuda.Event()
        self._copy = copy
        if ready is not None:
            ready.record()
        copied = threading.Event()

        def wait_for_copy(*_: object) -> None:
            copied.wait()

        self._hook = optimizer.register_step_pre_hook(wait_for_copy)

        def work() -> None:
            try:
                try:
                    # PyTorch would take threads from the step for it
                    for place, value in here:
                        np.copyto(place, value)
                    if ready is not None:
                        ready.synchronize()
                finally:
                    copied.set()
                save(copy)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work, name="unmask-save", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a save that failed. One that goes on is left alone."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait for the save that goes on, and raise its error if it fails."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        assert self._hook is not None
        self._hook.remove()
        error, self._error = self._error, None
        if error is not None:
            raise error


def _place_for(value: Tensor, place: Tensor | None) -> Tensor:
    """Return memory of the host for a copy: that of the former one if it fits."""
    if place is not None and place.shape == value.shape and place.dtype == value.dtype:
        return place
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
