import pytest

from unmask.errors import ConfigError
from unmask.train.schedule import LinearSchedule


def test_rises_to_the_peak_then_falls_on_a_line_over_the_whole_run() -> None:
    schedule = LinearSchedule(peak=1.0, warmup_steps=4, steps=10)
    rates = [schedule(step) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_reaches_zero_at_the_end_and_stays_there() -> None:
    schedule = LinearSchedule(peak=3e-4, warmup_steps=0, steps=7)
    assert schedule(0) == 3e-4
    assert schedule(7) == 0.0
    assert schedule(9) == 0.0


def test_a_warm_up_longer_than_the_run_names_both_and_the_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        LinearSchedule(peak=1e-4, warmup_steps=12000, steps=10000)
    assert str(caught.value) == (
        "config: train.warmup_steps is 12000 but train.steps is 10000; lower the warm-up or raise the steps"
    )


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
