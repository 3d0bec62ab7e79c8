"""The clock of a run with `train.minutes`: the time that has passed, in this process and in those before it.

Of several ranks, the clock of rank 0 counts. The others take its time over at each step, and their own stands still in
between (`take_over`); so all of them end at the same step.

It starts with the training loop, so the compilation of kernels, evaluations and saves count; the preparation of text
does not. A checkpoint keeps the time. A resumed run goes on with the minutes that are left; the time between a
checkpoint and a crash does not count.
"""

import time

__all__ = ["Deadline"]


class Deadline:
    """Counts the time of a run.

    Args:
        minutes: of the whole run, > 0.

    Attributes:
        seconds: of the whole run.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds = 60.0 * minutes
        self._before = 0.0
        self._begun: float | None = None
        self._tenths = 0
        self._told: float | None = None

    def resume(self, seconds: float) -> None:
        """Take over the time that earlier processes spent."""
        self._before = seconds

    def take_over(self, seconds: float) -> None:
        """Stand at the time that rank 0 tells, until it tells another one."""
        self._told = seconds

    @property
    def own(self) -> float:
        """Seconds of the run so far by the clock of this process."""
        return self._before + (0.0 if self._begun is None else time.monotonic() - self._begun)

    def start(self) -> None:
        """Start the clock of this process."""
        self._begun = time.monotonic()
        self.ends_tenth()

    def ends_tenth(self) -> bool:
        """Return whether a tenth of the time ended since this was last asked."""
        before, self._tenths = self._tenths, int(10.0 * self.share)
        return self._tenths > before

    @property
    def passed(self) -> float:
        """Seconds of the run so far."""
        return self.own if self._told is None else self._told

    @property
    def left(self) -> float:
        """Seconds that are left; 0 at the end."""
        return max(0.0, self.seconds - self.passed)

    @property
    def share(self) -> float:
        """Share of the time that has passed, in [0, 1]."""
        return min(1.0, self.passed / self.seconds)
