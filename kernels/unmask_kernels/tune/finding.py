"""A finding: what was measured of one choice for one shape, and whether it replaces the default."""

from __future__ import annotations

from dataclasses import dataclass

from ..tuned import Key, Value

__all__ = ["Finding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of a contest.

    Attributes:
        choice, shape: the key.
        asked: in words, the call that was to be timed.
        measured: the call that was timed: of fewer tokens if the memory was too small.
        default: value without a tuning.
        best: the value that is taken, or the fastest of those that are not.
        taken: whether `best` replaces the default.
        ratio: default's time / time of `best`, the median of the rounds; 1 if the default is the fastest.
        low, high: quartiles of that ratio.
        noise: how far the default is from itself, see `race`.
        seconds: median time of the default.
        rounds: that were timed.
        bits: whether results are the default's: "same bits" or "within the criterion".
        advice: whether nothing reads the value by itself.
        wrong: what is wrong with candidates, a sentence each.
    """

    choice: str
    shape: str
    asked: str
    measured: str
    default: Value
    best: Value
    taken: bool
    ratio: float = 1.0
    low: float = 1.0
    high: float = 1.0
    noise: float = 1.0
    seconds: float = 0.0
    rounds: int = 0
    bits: str = "same bits"
    advice: bool = False
    wrong: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """The tunable and the shape."""
        return Key(self.choice, self.shape)
