"""Timing candidates side by side: the order of the rounds, and the rule by which a candidate replaces the default."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from unmask_kernels.tune.race import (
    FEWEST_ROUNDS,
    MOST_ROUNDS,
    DeviceClock,
    Lead,
    Times,
    best_of,
    lead,
    noise,
    race,
)


def ordered(names: str, *, is_over: Callable[[], bool] = lambda: False) -> tuple[Times, list[str]]:
    """Race calls by these names, the default's first, with a clock that counts."""
    seen: list[str] = []
    calls = [lambda name=name: seen.append(name) for name in names]
    ticks = itertools.count(1)

    def clock(call: Callable[[], object]) -> float:
        call()
        return float(next(ticks))

    return race(calls[0], calls[1:], clock, is_over=is_over), seen


def test_each_round_times_every_candidate_once_and_the_default_twice_and_begins_with_the_next_one() -> None:
    times, seen = ordered("dab")
    rounds = ["".join(seen[start : start + 4]) for start in range(0, len(seen), 4)]
    # one round warms up
    assert len(rounds) == 1 + MOST_ROUNDS
    assert rounds[1:5] == ["dabd", "abdd", "bdda", "ddab"]
    assert all(sorted(each) == sorted("dabd") for each in rounds)
    assert [len(each) for each in (times.default, times.again, *times.others)] == [MOST_ROUNDS] * 4


def test_there_are_five_rounds_at_least_and_no_more_when_the_time_is_over() -> None:
    times, _ = ordered("da", is_over=lambda: True)
    assert len(times.default) == FEWEST_ROUNDS == 5


def of_rounds(default: list[float], again: list[float], other: list[float]) -> tuple[Lead, float]:
    times = Times(default, again, [other])
    return lead(times, 0), noise(times)


def test_a_lead_is_the_median_ratio_of_the_rounds_with_its_quartiles() -> None:
    found, apart = of_rounds([2.0] * 5, [2.0] * 5, [1.0, 2.0, 1.0, 4.0, 0.5])
    assert found == Lead(2.0, 1.0, 2.0)
    assert apart == 1.0


def test_the_noise_is_how_far_the_default_is_from_itself() -> None:
    assert of_rounds([1.0, 1.0, 1.2, 1.0, 1.0], [1.0, 1.5, 1.0, 1.0, 1.1], [1.0] * 5)[1] == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("leads", "apart", "best"),
    [
        ([Lead(1.10, 1.05, 1.2)], 1.0, 0),
        # two percent are no gain, however sure
        ([Lead(1.02, 1.015, 1.03)], 1.0, None),
        # faster in the median, but not in three rounds of four
        ([Lead(1.30, 0.9, 1.5)], 1.0, None),
        # within what the default is away from itself
        ([Lead(1.10, 1.05, 1.2)], 1.06, None),
        ([Lead(1.10, 1.05, 1.2), Lead(1.2, 1.1, 1.3), Lead(1.4, 1.0, 1.9)], 1.0, 1),
        ([], 1.0, None),
    ],
)
def test_a_candidate_must_win_by_more_than_the_noise(leads: list[Lead], apart: float, best: int | None) -> None:
    assert best_of(leads, apart) == best


def test_the_clock_of_a_cpu_gives_seconds() -> None:
    clock = DeviceClock(torch.device("cpu"))
    assert 0.0 < clock(lambda: sum(range(1000))) < 10.0
