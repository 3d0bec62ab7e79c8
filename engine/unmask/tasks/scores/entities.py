"""Scores of entities, in percent, as `conlleval` of CoNLL-2000 counts them.

An entity is right if its type, its first word and its last word are. Precision counts right ones among those predicted,
recall among those that are gold, and F1 is their harmonic mean, over all types and for each. `accuracy` counts words
with the right tag. How broken sequences are read stands in `tasks/tags.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.tasks.tags import entities_of

__all__ = ["EntityCounts", "count_entities", "score_entities", "score_entity_types"]


class EntityCounts(NamedTuple):
    """What is counted in a sentence.

    Attributes:
        right: entities that are gold and predicted, by type.
        predicted: predicted ones.
        gold: gold ones.
        right_tags: words with the right tag.
        words: words.
    """

    right: Counter[str]
    predicted: Counter[str]
    gold: Counter[str]
    right_tags: int
    words: int

    @property
    def totals(self) -> tuple[int, int, int, int, int]:
        """The counts over all types."""
        return self.right.total(), self.predicted.total(), self.gold.total(), self.right_tags, self.words


def count_entities(gold: Sequence[str], predicted: Sequence[str]) -> EntityCounts:
    """Return the counts of one sentence.

    Args:
        gold: a tag for each word.
        predicted: likewise.
    """
    is_gold, is_predicted = entities_of(gold), entities_of(predicted)
    both = set(is_gold) & set(is_predicted)
    return EntityCounts(
        Counter(one.type for one in both),
        Counter(one.type for one in is_predicted),
        Counter(one.type for one in is_gold),
        sum(one == other for one, other in zip(gold, predicted, strict=True)),
        len(gold),
    )


def score_entities(totals: Sequence[int] | NDArray[np.int64]) -> dict[str, float]:
    """Return F1, precision and recall over all types, and the accuracy of tags, in percent.

    Args:
        totals: the sums of `EntityCounts.totals` over sentences, (5,).
    """
    right, predicted, gold, right_tags, words = map(int, totals)
    accuracy = 100 * right_tags / words if words else 0.0
    return {"f1": 0.0, **_shares(right, predicted, gold), "accuracy": accuracy}


def score_entity_types(counts: Sequence[EntityCounts]) -> dict[str, dict[str, float]]:
    """Return precision, recall and F1 of each type, and the number of gold entities, by type."""
    totals: list[Counter[str]] = [Counter(), Counter(), Counter()]
    for one in counts:
        for total, counter in zip(totals, one[:3], strict=True):
            total.update(counter)
    right, predicted, gold = totals
    return {
        type_: _shares(right[type_], predicted[type_], gold[type_]) | {"entities": float(gold[type_])}
        for type_ in sorted({*predicted, *gold})
    }


def _shares(right: int, predicted: int, gold: int) -> dict[str, float]:
    precision = 100 * right / predicted if predicted else 0.0
    recall = 100 * right / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}
