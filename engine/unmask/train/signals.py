"""Signals that stop a run: after SIGTERM, SIGUSR1, SIGHUP or Ctrl-C the loop finishes its step and saves.

Schedulers send SIGTERM some seconds before they kill a process; Slurm can send SIGUSR1 minutes before. A terminal that
closes sends SIGHUP; nohup ignores it, so the run goes on. The handler only sets a flag, so a save is never interrupted.
A second Ctrl-C aborts at once.

Of several ranks each may hear a signal at another step, or not at all. So each votes for what it has heard, and the
loop reads what the votes of all ranks say.
"""

import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

__all__ = ["TO_GO_ON", "StopRequest"]

# a run that is stopped by one of these is to go on later; the others come from a person
TO_GO_ON = ("SIGTERM", "SIGUSR1")
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
# torchrun passes on the Ctrl-C that its processes have had from the terminal
_ECHO_SECONDS = 5.0


class StopRequest:
    """A context in which a signal sets `name`, which is None before. Outside the main thread it does nothing.

    Args:
        shared: whether there are several ranks. Then `settle` sets `name` on all of them.

    Attributes:
        name: the signal that stops the run.
        heard: the signal that this process received; None before.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.name: str | None = None
        self.heard: str | None = None
        self._shared = shared
        self._heard_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return self.name is not None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def votes(self) -> list[float]:
        """Return 1 for the signal that this rank has heard and 0 for the others, in an order that all ranks have."""
        return [float(number.name == self.heard) for number in _SIGNALS]

    def settle(self, votes: Sequence[float]) -> None:
        """Take the sums of the votes of all ranks: the run stops by the first signal that any of them heard."""
        self.name = next((number.name for number, vote in zip(_SIGNALS, votes, strict=True) if vote), None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        is_echo = self._shared and now - self._heard_at < _ECHO_SECONDS
        if self.heard is not None and number == signal.SIGINT and not is_echo:
            raise KeyboardInterrupt
        self.heard, self._heard_at = signal.Signals(number).name, now
        if not self._shared:
            self.name = self.heard
