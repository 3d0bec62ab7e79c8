"""Scores of numbers: the correlations of Pearson and Spearman, in percent, and the mean squared error.

    pearson     covariance of both, divided by both standard deviations
    spearman    pearson of the ranks; equal numbers share the mean of their ranks

A correlation with numbers that are all equal does not exist; it is 0 here. SciPy defines the same otherwise, and the
tests compare both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["score_numbers"]


def score_numbers(gold: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """Return the scores of predicted numbers.

    Args:
        gold: the right numbers, (N,), N at least 1.
        predicted: likewise.
    Returns:
        `pearson`, `spearman` and their mean `correlation`, in percent; `mse`, in the square of the unit of `gold`.
    """
    pearson, spearman = _correlation(gold, predicted), _correlation(_ranks(gold), _ranks(predicted))
    scores = {"pearson": pearson, "spearman": spearman, "correlation": (pearson + spearman) / 2}
    return {name: 100.0 * value for name, value in scores.items()} | {"mse": float(np.mean((gold - predicted) ** 2))}


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    first, second = first - first.mean(), second - second.mean()
    largest = np.abs(first).max(), np.abs(second).max()
    if min(largest) == 0:
        return 0.0
    # tiny numbers would vanish when they are squared
    first, second = first / largest[0], second / largest[1]
    return float(np.clip(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)), -1.0, 1.0))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
