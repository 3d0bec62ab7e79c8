"""Each schedule against its formula, against those of PyTorch and of transformers, by steps and by the clock."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unmask.config import OptimizerConfig
from unmask.errors import ConfigError
from unmask.train.schedule import StepSchedule, TimedSchedule

SCHEDULES = ("linear", "cosine", "polynomial", "wsd")


def settings(schedule: str = "linear", peak: float = 1.0, warmup: int = 0, **others: Any) -> OptimizerConfig:
    named: Any = {"schedule": schedule, "learning_rate": peak, "warmup_steps": warmup}
    return OptimizerConfig(**named, **others)


def rates(schedule: Callable[[int], float], steps: int) -> list[float]:
    return [schedule(step) for step in range(steps)]


def test_rises_to_the_peak_then_falls_on_a_line_over_the_whole_run() -> None:
    found = rates(StepSchedule(settings(warmup=4), 10), 10)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_the_default_has_the_bits_of_the_linear_schedule_of_0_1() -> None:
    for peak, warmup, steps in ((1.5e-3, 100, 2100), (3e-4, 7, 997), (1e-4, 0, 13)):
        schedule = StepSchedule(OptimizerConfig(learning_rate=peak, warmup_steps=warmup), steps)
        for step in range(steps):
            before = peak * (step + 1) / warmup if step < warmup else peak * max(0.0, 1.0 - step / steps)
            assert schedule(step) == before


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_reaches_its_end_after_the_last_step_and_stays_there(schedule: str) -> None:
    for final in (0.0, 0.1):
        found = StepSchedule(settings(schedule, 3e-4, final_share=final), 7)
        assert found(0) == 3e-4
        assert found(6) > found(7) == found(9) == pytest.approx(final * 3e-4)


def test_the_cosine_falls_from_the_end_of_the_warm_up() -> None:
    found = StepSchedule(settings("cosine", 2.0, 4), 12)
    assert rates(found, 5) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert found(8) == pytest.approx(1.0)
    assert found(10) == pytest.approx(2.0 * (1 - 2**0.5 / 2) / 2)


def test_the_polynomial_is_a_power_of_what_is_left() -> None:
    found = StepSchedule(settings("polynomial", 1.0, 2, power=3.0, final_share=0.5), 12)
    assert found(2) == 1.0
    assert found(7) == pytest.approx(0.5 + 0.5 * 0.5**3)


def test_the_trapezoid_stays_at_its_peak_and_falls_in_the_last_steps() -> None:
    found = rates(StepSchedule(settings("wsd", 1.0, 2, decay_share=0.4), 10), 10)
    assert found == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 1 / 3])
def test_the_trapezoid_has_equal_bits_before_its_decay_whatever_the_length_of_the_run(share: float) -> None:
    chosen = settings("wsd", 1.5e-3, 10, decay_share=share)
    long = StepSchedule(chosen, 5000)
    for steps in (90, 100, 111, 1000):
        short = StepSchedule(chosen, steps)
        stable = steps - short.decay
        assert rates(short, stable + 1) == rates(long, stable + 1)
        assert short(stable + 1) < long(stable + 1)


def of_pytorch(scheduler: Callable[..., Any], steps: int, **given: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    made = scheduler(optimizer, **given)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


def test_without_warm_up_the_schedules_are_those_of_pytorch() -> None:
    scheduler = torch.optim.lr_scheduler
    for ours, theirs in (
        (settings("linear", 0.5), of_pytorch(scheduler.LinearLR, 30, start_factor=1.0, end_factor=0.0, total_iters=30)),
        (settings("cosine", 0.5), of_pytorch(scheduler.CosineAnnealingLR, 30, T_max=30)),
        (
            settings("cosine", 0.5, final_share=0.1),
            of_pytorch(scheduler.CosineAnnealingLR, 30, T_max=30, eta_min=0.05),
        ),
        (settings("polynomial", 0.5, power=3.0), of_pytorch(scheduler.PolynomialLR, 30, total_iters=30, power=3.0)),
    ):
        assert rates(StepSchedule(ours, 30), 30) == pytest.approx(theirs, abs=1e-12)


def test_after_the_warm_up_the_schedules_are_those_of_transformers() -> None:
    optimization = pytest.importorskip("transformers.optimization")
    of_run = {"num_warmup_steps": 6, "num_training_steps": 40}
    for ours, name, given in (
        (settings("cosine", 0.5, 6), "get_cosine_schedule_with_warmup", {}),
        (
            settings("polynomial", 0.5, 6, power=2.5, final_share=0.2),
            "get_polynomial_decay_schedule_with_warmup",
            {"power": 2.5, "lr_end": 0.1},
        ),
        (
            settings("wsd", 0.5, 6, decay_share=0.25, final_share=0.1),
            "get_wsd_schedule",
            {"num_decay_steps": 10, "decay_type": "linear", "min_lr_ratio": 0.1},
        ),
    ):
        theirs = of_pytorch(getattr(optimization, name), 40, **of_run, **given)
        assert rates(StepSchedule(ours, 40), 40)[6:] == pytest.approx(theirs[6:], abs=1e-12), name


@pytest.mark.parametrize(
    ("asked", "steps", "taken"), [(100, 2, 1), (100, 30, 3), (100, 31, 4), (31, 31, 31), (0, 5, 0)]
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_longer_than_the_run_takes_a_tenth_of_it(asked: int, steps: int, taken: int, schedule: str) -> None:
    found = StepSchedule(settings(schedule, warmup=asked), steps)
    assert found.warmup == taken
    each = rates(found, steps)
    assert max(each) == 1.0
    assert each.index(1.0) == max(0, taken - 1)


def timed(schedule: str, passed: list[float], warmup: int = 0, **others: Any) -> list[float]:
    """The rates of later and later updates, when these shares of the time have passed."""
    clock = iter(passed)
    found = TimedSchedule(settings(schedule, 2.0, warmup, **others), lambda: next(clock))
    return [found(1000 + number) for number in range(len(passed))]


def test_the_clock_takes_the_rate_to_0_however_many_steps_there_were() -> None:
    clock = iter([0.0, 0.0, 0.0, 0.0])
    warming = TimedSchedule(settings(peak=2.0, warmup=4), lambda: next(clock))
    assert rates(warming, 4) == [0.5, 1.0, 1.5, 2.0]
    assert timed("linear", [0.25, 0.5, 1.0], 4) == [1.5, 1.0, 0.0]
    assert timed("cosine", [0.0, 0.5, 1.0]) == pytest.approx([2.0, 1.0, 0.0])
    assert timed("polynomial", [0.5, 1.0], power=2.0, final_share=0.5) == pytest.approx([1.25, 1.0])
    assert timed("wsd", [0.2, 0.7, 0.8, 0.9, 1.0], decay_share=0.2) == pytest.approx([2.0, 2.0, 2.0, 1.0, 0.0])


def test_a_warm_up_by_the_clock_ends_after_a_tenth_of_the_time() -> None:
    passed = 0.05
    schedule = TimedSchedule(settings(warmup=1000), lambda: passed)
    assert schedule(3) == pytest.approx(0.5)
    passed = 0.1
    assert schedule(4) == pytest.approx(0.9)


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.steps must be at least 1, got 0"):
        StepSchedule(settings(), 0)
