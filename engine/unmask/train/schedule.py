"""Learning rate of a step: linear warm-up, then linear decay to zero (Devlin et al. 2019, arXiv:1810.04805).

    rate(s) = peak * (s + 1) / warmup      for s < warmup
    rate(s) = peak * (1 - s / steps)       afterwards, s = 0 .. steps - 1

As in the code published with BERT, the decay starts at the first step of the run and not at the end of the warm-up.
That code warms up with s / warmup, so its first update is zero; here the first update counts.

A run of so many minutes has the share of them that has passed, u in [0, 1], in the place of s / steps. Its warm-up ends
after `warmup_steps` updates or after a tenth of the minutes, whichever comes first:

    w       = max((s + 1) / warmup_steps, u / 0.1)
    rate    = peak * w         for w < 1
    rate    = peak * (1 - u)   afterwards
"""

from collections.abc import Callable
from dataclasses import dataclass

from unmask.errors import ConfigError

__all__ = ["LinearSchedule", "TimedSchedule"]

# part of a run that its warm-up takes, if the one asked for is longer than the run
_WARMUP_SHARE = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearSchedule:
    """`schedule(step)` is the learning rate of the update number `step`, counted from 0.

    Attributes:
        peak: the highest rate, > 0.
        warmup_steps: updates of the warm-up that are asked for, >= 0.
        steps: updates in the run, >= 1.
    Raises:
        ConfigError: a value is out of range.
    """

    peak: float
    warmup_steps: int
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"config: train.steps must be at least 1, got {self.steps}")
        _require_rates(self.peak, self.warmup_steps)

    @property
    def warmup(self) -> int:
        """Updates of the warm-up: those asked for, or a tenth of a run that has fewer, rounded up."""
        return self.warmup_steps if self.warmup_steps <= self.steps else -(-self.steps // _WARMUP_SHARE)

    def __call__(self, step: int) -> float:
        """Return the rate of update `step`, in [0, peak]."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return self.peak * max(0.0, 1.0 - step / self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedSchedule:
    """`schedule(step)` is the learning rate of the update number `step` of a run that the clock ends.

    Attributes:
        peak: the highest rate, > 0.
        warmup_steps: updates of the warm-up, >= 0; it ends earlier after a tenth of the time.
        passed: returns the share of the time that has passed, in [0, 1].
    Raises:
        ConfigError: a value is out of range.
    """

    peak: float
    warmup_steps: int
    passed: Callable[[], float]

    def __post_init__(self) -> None:
        _require_rates(self.peak, self.warmup_steps)

    def __call__(self, step: int) -> float:
        """Return the rate of update `step` if it begins now, in [0, peak]."""
        passed = self.passed()
        warm = max((step + 1) / max(1, self.warmup_steps), passed * _WARMUP_SHARE)
        return self.peak * (warm if warm < 1.0 else max(0.0, 1.0 - passed))


def _require_rates(peak: float, warmup_steps: int) -> None:
    if not peak > 0:
        raise ConfigError(f"config: optimizer.learning_rate must be above 0, got {peak}")
    if warmup_steps < 0:
        raise ConfigError(f"config: optimizer.warmup_steps must be at least 0, got {warmup_steps}")
