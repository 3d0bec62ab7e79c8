"""Learning rate of a step: linear warm-up, then linear decay to zero (Devlin et al. 2019, arXiv:1810.04805).

    rate(s) = peak * (s + 1) / warmup_steps      for s < warmup_steps
    rate(s) = peak * (1 - s / steps)             afterwards, s = 0 .. steps - 1

As in the code published with BERT, the decay starts at the first step of the run and not at the end of the warm-up.
That code warms up with s / warmup_steps, so its first update is zero; here the first update counts.
"""

from dataclasses import dataclass

from unmask.errors import ConfigError

__all__ = ["LinearSchedule"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearSchedule:
    """`schedule(step)` is the learning rate of the update number `step`, counted from 0.

    Attributes:
        peak: the highest rate, > 0.
        warmup_steps: updates of the warm-up, in [0, steps].
        steps: updates in the run, >= 1.
    Raises:
        ConfigError: the warm-up is longer than the run, or a value is out of range.
    """

    peak: float
    warmup_steps: int
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"config: train.steps must be at least 1, got {self.steps}")
        if not self.peak > 0:
            raise ConfigError(f"config: train.learning_rate must be above 0, got {self.peak}")
        if self.warmup_steps < 0:
            raise ConfigError(f"config: train.warmup_steps must be at least 0, got {self.warmup_steps}")
        if self.warmup_steps > self.steps:
            raise ConfigError(
                f"config: train.warmup_steps is {self.warmup_steps} but train.steps is {self.steps}; "
                "lower the warm-up or raise the steps"
            )

    def __call__(self, step: int) -> float:
        """Return the rate of update `step`, in [0, peak]."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        return self.peak * max(0.0, 1.0 - step / self.steps)
