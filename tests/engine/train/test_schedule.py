import pytest

from unmask.errors import ConfigError
from unmask.train.schedule import LinearSchedule, TimedSchedule


def test_rises_to_the_peak_then_falls_on_a_line_over_the_whole_run() -> None:
    schedule = LinearSchedule(peak=1.0, warmup_steps=4, steps=10)
    rates = [schedule(step) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_reaches_zero_at_the_end_and_stays_there() -> None:
    schedule = LinearSchedule(peak=3e-4, warmup_steps=0, steps=7)
    assert schedule(0) == 3e-4
    assert schedule(7) == 0.0
    assert schedule(9) == 0.0


@pytest.mark.parametrize(
    ("asked", "steps", "taken"), [(100, 2, 1), (100, 30, 3), (100, 31, 4), (31, 31, 31), (0, 5, 0)]
)
def test_a_warm_up_longer_than_the_run_takes_a_tenth_of_it(asked: int, steps: int, taken: int) -> None:
    schedule = LinearSchedule(peak=1.0, warmup_steps=asked, steps=steps)
    assert schedule.warmup == taken
    rates = [schedule(step) for step in range(steps)]
    assert max(rates) == 1.0
    assert rates.index(1.0) == max(0, taken - 1)


def test_the_clock_takes_the_rate_to_0_however_many_steps_there_were() -> None:
    clock = iter([0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 1.0])
    schedule = TimedSchedule(peak=2.0, warmup_steps=4, passed=lambda: next(clock))
    assert [schedule(step) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert [schedule(1000) for _ in range(3)] == [1.5, 1.0, 0.0]


def test_a_warm_up_by_the_clock_ends_after_a_tenth_of_the_time() -> None:
    passed = 0.05
    schedule = TimedSchedule(peak=1.0, warmup_steps=1000, passed=lambda: passed)
    assert schedule(3) == pytest.approx(0.5)
    passed = 0.1
    assert schedule(4) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("peak", "warmup_steps", "steps", "named"),
    [
        (0.0, 0, 1, "learning_rate"),
        (float("nan"), 0, 1, "learning_rate"),
        (1.0, -1, 1, "warmup"),
        (1.0, 0, 0, "steps"),
    ],
)
def test_values_out_of_range_are_named(peak: float, warmup_steps: int, steps: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LinearSchedule(peak=peak, warmup_steps=warmup_steps, steps=steps)
