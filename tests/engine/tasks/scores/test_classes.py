"""Scores of classes against scikit-learn, also where a class is never predicted or never gold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.tasks.scores.classes import score_classes, score_several

metrics = pytest.importorskip("sklearn.metrics")

PAIRS = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=30),
    )
)


@pytest.mark.filterwarnings("ignore:A single label")
@settings(deadline=None, max_examples=40)
@given(PAIRS)
def test_scores_of_classes_are_those_of_scikit_learn(pairs: tuple[int, list[tuple[int, int]]]) -> None:
    classes, labels = pairs
    gold, predicted = (np.array(column, np.int64) for column in zip(*labels, strict=True))
    wanted = {
        "accuracy": metrics.accuracy_score(gold, predicted),
        "macro_f1": metrics.f1_score(gold, predicted, average="macro", zero_division=0),
        "micro_f1": metrics.f1_score(gold, predicted, average="micro", zero_division=0),
        "matthews": metrics.matthews_corrcoef(gold, predicted),
    }
    if classes == 2:
        wanted["f1"] = metrics.f1_score(gold, predicted, pos_label=1, zero_division=0)
    found = score_classes(gold, predicted, classes)
    assert found.keys() == wanted.keys()
    assert found == pytest.approx({name: 100 * value for name, value in wanted.items()}, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[st.booleans()] * 2 * n), min_size=1, max_size=20)))
def test_scores_of_several_classes_are_those_of_scikit_learn(rows: list[tuple[bool, ...]]) -> None:
    table = np.array(rows, np.bool_)
    gold, predicted = np.split(table, 2, axis=1)
    found = score_several(gold, predicted)
    assert found["accuracy"] == pytest.approx(100 * float((gold == predicted).all(1).mean()))
    if gold.shape[1] > 1:
        for average in ("macro", "micro"):
            wanted = metrics.f1_score(gold, predicted, average=average, zero_division=0)
            assert found[f"{average}_f1"] == pytest.approx(100 * wanted, abs=1e-9)


def test_matthews_of_many_examples_does_not_overflow() -> None:
    gold = np.zeros(400_000, np.int64)
    gold[:200_000] = 1
    assert score_classes(gold, gold, 2)["matthews"] == 100.0
    assert score_classes(gold, 1 - gold, 2)["matthews"] == -100.0
