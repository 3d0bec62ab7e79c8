"""Confidence intervals by bootstrap (Efron 1979): scores of many test sets that are drawn from the one at hand.

A resample draws as many examples as there are, with replacement. An interval of 95 % lies between the 2.5th and the
97.5th percentile of the scores of the resamples. The draws depend on the seed and the number of examples alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from unmask.config.settings import check_argument

__all__ = ["bootstrap"]


def bootstrap(
    score: Callable[[NDArray[np.int64]], Mapping[str, float]],
    examples: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return the lower and the upper end of the interval of each score.

    Args:
        score: gives the scores of the examples whose numbers it gets, (N,).
        examples: number of examples, N.
        resamples: how many are drawn; 0 gives no interval.
        level: share of the resamples in the interval.
        seed: of the draws.
    """
    check_argument("score", "resamples", int, resamples, ge=0)
    check_argument("score", "level", float, level, gt=0, lt=1)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        for name, value in score(rng.integers(0, examples, examples)).items():
            drawn.setdefault(name, []).append(value)
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: (float(low), float(high)) for name, (low, high) in ((n, np.quantile(v, ends)) for n, v in drawn.items())
    }
