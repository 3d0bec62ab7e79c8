import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from unmask.config import load_config
from unmask.train.logging.progress import Display, clock_time, describe_row, next_command

ROW: dict[str, Any] = {
    "step": 10,
    "loss": 2.5,
    "tokens_per_second": 12345.6,
    "data_wait": 0.034,
    "seconds_per_step": 3.0,
    "skipped": 0,
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock in seconds that a test moves on; it begins at two in the afternoon."""
    now = [0.0]

    class At(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "At":
            return cls(2026, 11, 30, 14, 0, 0) + timedelta(seconds=now[0])

    monkeypatch.setattr("unmask.train.logging.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("unmask.train.logging.progress.datetime", At)
    return now


def display_of(out: io.StringIO, *, terminal: bool = False) -> Display:
    return Display(console=Console(file=out, force_terminal=terminal, width=120))


def shown(*, terminal: bool) -> str:
    out = io.StringIO()
    display = display_of(out, terminal=terminal)
    display.begin(done=9, steps=100)
    with display:
        display.advance()
        display.show(ROW)
        display.show_message("held-out [loss] 2.4")
    return out.getvalue()


def test_outside_a_terminal_each_row_is_a_plain_line(clock: list[float]) -> None:
    lines = shown(terminal=False).splitlines()
    row = "step 10/100  loss 2.500  12,346 tokens/s  waiting 3%  0:04:30 left, until 14:04"
    assert lines == [row, "held-out [loss] 2.4"]


def test_a_terminal_shows_a_bar_with_the_same_numbers(clock: list[float]) -> None:
    text = shown(terminal=True)
    assert "10/100" in text
    assert "loss 2.500  12,346 tokens/s  waiting 3%  until 14:04" in text
    assert "held-out [loss] 2.4" in text


def test_a_forecast_comes_after_some_steps_and_later_lines_correct_it(clock: list[float]) -> None:
    out = io.StringIO()
    display = display_of(out)
    display.begin(done=0, steps=100)
    glance = {name: value for name, value in ROW.items() if name != "step"}
    for step in range(1, 21):
        # the first step compiles for a minute, and half a minute without a line is too long
        clock[0] += 60.0 if step == 1 else 2.0
        display.advance()
        assert display.waits == (step in (1, 4, 19))
        if display.waits:
            display.show(glance | {"seconds_per_step": 60.0 if step == 1 else 2.0})
    assert out.getvalue().splitlines() == [
        "step 1/100  loss 2.500  12,346 tokens/s  waiting 3%  1:39:00 left, until 15:40",
        "forecast: 12,346 tokens/s, about 0:04:18 in all, until 14:04",
        "step 19/100  loss 2.500  12,346 tokens/s  waiting 3%  0:02:42 left, until 14:04",
    ]


def test_steps_of_half_a_minute_have_a_forecast_after_the_second(clock: list[float]) -> None:
    out = io.StringIO()
    display = display_of(out)
    display.begin(done=0, steps=3)
    for _ in range(2):
        clock[0] += 40.0
        display.advance()
        assert display.waits
        display.show(ROW | {"seconds_per_step": 40.0})
    assert "forecast: 12,346 tokens/s, about 0:02:00 in all, until 14:02" in out.getvalue().splitlines()


def test_a_run_by_the_clock_is_forecast_in_steps(clock: list[float]) -> None:
    out = io.StringIO()
    display = display_of(out)
    display.begin(done=0, steps=None, seconds_left=lambda: 600.0 - clock[0])
    for _ in range(4):
        clock[0] += 3.0
        display.advance()
    display.show(ROW)
    assert out.getvalue().splitlines() == [
        "forecast: 12,346 tokens/s, about 200 steps in all, until 14:10",
        "step 4  loss 2.500  12,346 tokens/s  waiting 3%  0:09:48 left, until 14:10",
    ]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (60, "14:01"),
        (86_400, "Tue 14:00"),
        (20 * 86_400, "2026-12-20"),
        (10 * 3600, "Tue 00:00"),
        (1e15, "the year 31,690,765"),
    ],
)
def test_another_day_is_named(clock: list[float], seconds: float, told: str) -> None:
    assert clock_time(seconds) == told


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mfu": 0.4213}, "MFU 42.1%"),
        ({"skipped": 2}, "2 updates skipped"),
        ({"loss": None, "skipped": 20}, "loss not finite"),
        ({"loss": None}, "nothing to predict  "),
        ({"loss": None, "mlm_loss": None, "nsp_loss": None}, "nothing to predict  "),
        ({"loss": None, "mlm_loss": 2.5, "nsp_loss": None}, "nothing to predict for nsp  "),
        ({"loss": None, "mlm_loss": 2.5, "nsp_loss": 0.5}, "no step with something to predict for every loss"),
    ],
)
def test_what_is_unusual_is_shown_when_it_happens(change: dict[str, Any], expected: str) -> None:
    assert expected not in describe_row(ROW)
    assert expected in describe_row(ROW | change)


@pytest.mark.parametrize(
    ("overrides", "command"),
    [
        ({}, 'fill-mask runs/a "text with a [MASK]"'),
        ({"masking": {"strategy": "mac", "similar_words": "a.tsv"}}, "analyse runs/a"),
        ({"objective": {"mlm": 0, "nsp": 1}, "composition.strategy": "pairs"}, "analyse runs/a"),
        ({"objective": {"mlm": 0, "clm": 1}, "model.causal": True}, "analyse runs/a"),
    ],
)
def test_only_a_model_that_learnt_to_fill_masks_is_offered_for_it(overrides: dict[str, Any], command: str) -> None:
    assert next_command(load_config(None, overrides), Path("runs/a")) == command
