"""Correlations against SciPy, with ties, and numbers that are all equal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.tasks.scores.numbers import score_numbers

stats = pytest.importorskip("scipy.stats")

VALUES = st.one_of(st.sampled_from([0.0, 1.0, 2.5, 5.0]), st.floats(-1e3, 1e3))


@settings(deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=30))
def test_correlations_are_those_of_scipy(pairs: list[tuple[float, float]]) -> None:
    gold, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    found = score_numbers(gold, predicted)
    spread = min(
        np.ptp(gold) / max(np.abs(gold).max(), 1e-300), np.ptp(predicted) / max(np.abs(predicted).max(), 1e-300)
    )
    if spread < 1e-6:
        # SciPy warns that the numbers are nearly equal
        return
    assert found["pearson"] == pytest.approx(100 * stats.pearsonr(gold, predicted)[0], abs=1e-7)
    assert found["spearman"] == pytest.approx(100 * stats.spearmanr(gold, predicted)[0], abs=1e-7)
    assert found["correlation"] == pytest.approx((found["pearson"] + found["spearman"]) / 2)
    assert found["mse"] == pytest.approx(float(np.mean((gold - predicted) ** 2)))


def test_numbers_that_are_all_equal_have_no_correlation() -> None:
    found = score_numbers(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
