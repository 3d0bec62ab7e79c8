import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from unmask.config import load_config
from unmask.train.logging.progress import Display, describe_row, next_command

ROW: dict[str, Any] = {
    "step": 10,
    "loss": 2.5,
    "tokens_per_second": 12345.6,
    "data_wait": 0.034,
    "seconds_per_step": 3.0,
    "skipped": 0,
}


def shown(*, terminal: bool) -> str:
    out = io.StringIO()
    display = Display(steps=100, console=Console(file=out, force_terminal=terminal, width=120))
    display.begin(done=9)
    with display:
        display.advance()
        display.show(ROW)
        display.show_message("held-out [loss] 2.4")
    return out.getvalue()


def test_outside_a_terminal_each_row_is_a_plain_line() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines == ["step 10/100  loss 2.500  12,346 tokens/s  waiting 3%  0:04:30 left", "held-out [loss] 2.4"]


def test_a_terminal_shows_a_bar_with_the_same_numbers() -> None:
    text = shown(terminal=True)
    assert "10/100" in text
    assert "loss 2.500  12,346 tokens/s  waiting 3%" in text
    assert "held-out [loss] 2.4" in text


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
        ({"data": {"masking": "mac", "similar_words": "a.tsv"}}, "analyse runs/a"),
        ({"objective": {"mlm": 0, "nsp": 1}, "data.compose": "pairs"}, "analyse runs/a"),
        ({"objective": {"mlm": 0, "clm": 1}, "model.causal": True}, "analyse runs/a"),
    ],
)
def test_only_a_model_that_learnt_to_fill_masks_is_offered_for_it(overrides: dict[str, Any], command: str) -> None:
    assert next_command(load_config(None, overrides), Path("runs/a")) == command
