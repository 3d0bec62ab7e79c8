"""Scores of classes, in percent: accuracy, F1 in three forms, and the correlation of Matthews.

    F1 of a class       of precision and recall, the right ones among those predicted and among those that are gold:
                        2 precision recall / (precision + recall) = 2 TP / (2 TP + FP + FN); 0 where all are 0
    f1                  of the class with index 1, where there are two: GLUE's F1 of MRPC and QQP
    macro_f1            mean of the F1 of the classes that are gold or predicted somewhere
    micro_f1            F1 of all decisions together: the accuracy where an example has one class
    matthews            (c s - sum p t) / sqrt((s^2 - sum p^2) (s^2 - sum t^2)); 0 where a factor is 0. c right ones of
                        s examples, p predictions and t gold labels of each class (Gorodkin 2004)

scikit-learn defines the same; the tests compare both.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["score_classes", "score_several"]


def score_classes(gold: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> dict[str, float]:
    """Return the scores of one class an example, in percent.

    Args:
        gold: index of the class of each example, (N,), N at least 1.
        predicted: likewise.
        classes: number of classes.
    """
    table = np.bincount(gold * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    right, is_gold, is_predicted = np.diag(table), table.sum(1), table.sum(0)
    total, correct = int(table.sum()), int(right.sum())
    f1 = _f1(right, is_predicted - right, is_gold - right)
    seen = (is_gold + is_predicted) > 0
    scores = {"accuracy": correct / total}
    if classes == 2:
        scores["f1"] = float(f1[1])
    scores |= {"macro_f1": float(f1[seen].mean()), "micro_f1": correct / total}
    scores["matthews"] = _matthews(correct, total, is_predicted, is_gold)
    return {name: 100.0 * value for name, value in scores.items()}


def score_several(gold: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> dict[str, float]:
    """Return the scores of several classes an example, in percent; `accuracy` counts examples with all of them right.

    Args:
        gold: whether each class is one of an example's, (N, classes).
        predicted: likewise.
    """
    right = (gold & predicted).sum(0)
    missed, wrong = gold.sum(0) - right, predicted.sum(0) - right
    scores = {
        "accuracy": float((gold == predicted).all(1).mean()),
        "macro_f1": float(_f1(right, wrong, missed).mean()),
        "micro_f1": float(_f1(right.sum(), wrong.sum(), missed.sum())),
    }
    return {name: 100.0 * value for name, value in scores.items()}


def _f1(right: NDArray[np.int64], wrong: NDArray[np.int64], missed: NDArray[np.int64]) -> NDArray[np.float64]:
    whole = 2 * right + wrong + missed
    return np.where(whole > 0, 2 * right / np.maximum(whole, 1), 0.0)


def _matthews(correct: int, total: int, predicted: NDArray[np.int64], gold: NDArray[np.int64]) -> float:
    # whole numbers in Python, which has no overflow
    p, t = [int(count) for count in predicted], [int(count) for count in gold]
    covariance = correct * total - sum(one * other for one, other in zip(p, t, strict=True))
    spread = (total**2 - sum(one**2 for one in p)) * (total**2 - sum(one**2 for one in t))
    return covariance / math.sqrt(spread) if spread else 0.0
