"""Micro-batches of each step: the same number in all, or one that grows over the first steps.

    n(s) = first * (1 + (last / first - 1) * s // growth)     s = 0 .. growth - 1
    n(s) = last                                               afterwards

All are multiples of the first, so ranks that share the first step evenly share every step. The sum of those before a
step is a formula too, so a resumed run knows its place in the stream without counting.
"""

from dataclasses import dataclass

from unmask.config.schema import StreamConfig, TrainConfig

__all__ = ["StepSizes"]


@dataclass(frozen=True, slots=True)
class StepSizes:
    """The micro-batches of the steps of a run.

    Attributes:
        first: of the first step, >= 1.
        last: of the steps after the growth, a multiple of `first`.
        growth: steps in which the number grows; 0 if it does not.
    """

    first: int
    last: int
    growth: int

    @classmethod
    def of(cls, train: TrainConfig, stream: StreamConfig) -> "StepSizes":
        """Return the sizes of a run with these settings."""
        last = train.tokens_per_step // stream.micro_batch_tokens
        if train.first_tokens_per_step is None:
            return cls(last, last, 0)
        return cls(train.first_tokens_per_step // stream.micro_batch_tokens, last, train.growth_steps)

    def at(self, step: int) -> int:
        """Return the micro-batches of update number `step`, counted from 0."""
        if step >= self.growth:
            return self.last
        return self.first * (1 + (self.last // self.first - 1) * step // self.growth)

    def before(self, step: int) -> int:
        """Return the micro-batches of all updates before number `step`."""
        levels = self.last // self.first - 1
        growing = min(step, self.growth)
        # the number rises by `first` at the steps where a level begins
        risen = sum(max(0, growing - -(-level * self.growth // levels)) for level in range(1, levels + 1))
        return self.first * (growing + risen) + self.last * (step - growing)

    def steps_for(self, micro_batches: float) -> int:
        """Return the fewest steps, at least 1, that have so many micro-batches."""
        growing = self.before(self.growth)
        if micro_batches > growing:
            return self.growth - int(-(micro_batches - growing) // self.last)
        low, high = 1, max(1, self.growth)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.before(middle) >= micro_batches else (middle + 1, high)
        return low
