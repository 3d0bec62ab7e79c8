"""Learning rate of a step: linear warm-up, then a decay of one of four shapes.

    rate(s) = peak * (s + 1) / warmup                      for s < warmup
    rate(s) = peak * (final + (1 - final) * height(left))  afterwards, s = 0 .. steps - 1

`left` is the part of the decay that is left, from 1 to 0:

    schedule     left                                    height
    linear       1 - s / steps                           left
    cosine       1 - (s - warmup) / (steps - warmup)     (1 - cos(pi * left)) / 2
    polynomial   1 - (s - warmup) / (steps - warmup)     left ** power
    wsd          min(1, (steps - s) / decay)             left

As in the code published with BERT (Devlin et al. 2019, arXiv:1810.04805), the linear decay starts at the first step of
the run and not at the end of the warm-up. That code warms up with s / warmup, so its first update is zero; here the
first update counts. `cosine` is that of Loshchilov & Hutter (2017, arXiv:1608.03983). `wsd` is warm-up, stable, decay
(Hu et al. 2024, arXiv:2404.06395): the rate stays at its peak until the last `decay` steps, a share of the run, so the
steps before do not depend on the length of the run.

A run of so many minutes has the share of them that has passed, u in [0, 1], in the place of s / steps. Its warm-up ends
after `warmup_steps` updates or after a tenth of the minutes, whichever comes first, and every decay but that of `wsd`
starts with the run:

    w       = max((s + 1) / warmup_steps, u / 0.1)
    rate    = peak * w         for w < 1
    left    = 1 - u            afterwards; with wsd min(1, (1 - u) / decay_share)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from unmask.config import OptimizerConfig
from unmask.errors import ConfigError

__all__ = ["StepSchedule", "TimedSchedule"]

# part of a run that its warm-up takes, if the one asked for is longer than the run
_WARMUP_SHARE = 10


@dataclass(frozen=True, slots=True)
class StepSchedule:
    """`schedule(step)` is the learning rate of the update number `step`, counted from 0.

    Attributes:
        settings: peak, warm-up and shape.
        steps: updates in the run, >= 1.
    Raises:
        ConfigError: there are no steps.
    """

    settings: OptimizerConfig
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"config: train.steps must be at least 1, got {self.steps}")

    @property
    def warmup(self) -> int:
        """Updates of the warm-up: those asked for, or a tenth of a run that has fewer, rounded up."""
        asked = self.settings.warmup_steps
        return asked if asked <= self.steps else -(-self.steps // _WARMUP_SHARE)

    @property
    def decay(self) -> int:
        """Updates at the end of the run in which the rate of `wsd` falls."""
        return max(1, round(self.settings.decay_share * self.steps))

    @property
    def stable(self) -> int | None:
        """Updates before the decay of `wsd`; None for other schedules, which decay from the beginning."""
        return self.steps - self.decay if self.settings.schedule == "wsd" and self.decay < self.steps else None

    def __call__(self, step: int) -> float:
        """Return the rate of update `step`, in [0, peak]."""
        peak, warmup = self.settings.learning_rate, self.warmup
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * _height(self.settings, max(0.0, self._left(step)))

    def _left(self, step: int) -> float:
        if self.settings.schedule == "wsd":
            return min(1.0, (self.steps - step) / self.decay)
        first = 0 if self.settings.schedule == "linear" else self.warmup
        return 1.0 - (step - first) / max(1, self.steps - first)


@dataclass(frozen=True, slots=True)
class TimedSchedule:
    """`schedule(step)` is the learning rate of the update number `step` of a run that the clock ends.

    Attributes:
        settings: peak, warm-up and shape; the warm-up ends earlier after a tenth of the time.
        passed: returns the share of the time that has passed, in [0, 1].
    """

    settings: OptimizerConfig
    passed: Callable[[], float]

    def __call__(self, step: int) -> float:
        """Return the rate of update `step` if it begins now, in [0, peak]."""
        passed, settings = self.passed(), self.settings
        warm = max((step + 1) / max(1, settings.warmup_steps), passed * _WARMUP_SHARE)
        if warm < 1.0:
            return settings.learning_rate * warm
        left = max(0.0, 1.0 - passed)
        return settings.learning_rate * _height(
            settings, min(1.0, left / settings.decay_share) if settings.schedule == "wsd" else left
        )


def _height(settings: OptimizerConfig, left: float) -> float:
    """Return the rate as a share of its peak, where the part `left` of the decay is left."""
    height = left
    if settings.schedule == "cosine":
        height = (1.0 - math.cos(math.pi * left)) / 2.0
    elif settings.schedule == "polynomial":
        height = left**settings.power
    return settings.final_share + (1.0 - settings.final_share) * height
