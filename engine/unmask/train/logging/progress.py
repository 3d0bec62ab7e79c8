"""The progress display of a run: a bar on a terminal, plain lines anywhere else.

A line is shown with each row of the log, and between two rows if nothing was shown for half a minute. After a few
steps a forecast tells the speed, the time in all and the clock time of the end. It leaves out the first step, in which
kernels are compiled. Each later line corrects it. No forecast has the time of evaluations and checkpoints to come.
"""

import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unmask.config import RunConfig
from unmask.paths import as_typed
from unmask.terminal import lasting, with_width

__all__ = ["Display", "clock_time", "duration", "next_command"]

# steps of this process before the forecast, the first one included
FORECAST_AFTER = 4
LINE_SECONDS = 30.0
_SECONDS_OF_A_YEAR = 365.2425 * 86_400


class Display:
    """Shows the progress of a run. As a context around the loop, it leaves the terminal clean.

    Args:
        console: where to. Default: standard output.
    """

    def __init__(self, *, console: Console | None = None) -> None:
        # A run must not fail because its output cannot be written.
        self._console = with_width(console if console is not None else Console(file=lasting(sys.stdout)))
        self._bar: Progress | None = None
        self._steps: int | None = None
        self._seconds_left: Callable[[], float] | None = None
        self._done = self._began = 0
        self._begun = self._shown = time.monotonic()
        self._forecast_given = False
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=12),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("train", total=None, numbers="")

    def __enter__(self) -> "Display":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, done: int, *, steps: int | None, seconds_left: Callable[[], float] | None = None) -> None:
        """Show that `done` steps are done, and start the clock.

        Args:
            done: steps that are done.
            steps: steps of the whole run; None if time decides.
            seconds_left: returns the seconds that are left of the time, if time decides.
        """
        self._done = self._began = done
        self._steps, self._seconds_left = steps, seconds_left
        self._begun = self._shown = time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._task, total=steps, completed=done, numbers="")

    def advance(self) -> None:
        """Show that one more step is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)

    @property
    def waits(self) -> bool:
        """Whether a line is due although the log has no row: the forecast, or the next after half a minute."""
        forecast = not self._forecast_given and self._done - self._began >= FORECAST_AFTER
        return forecast or time.monotonic() - self._shown >= LINE_SECONDS

    def show(self, row: dict[str, Any]) -> None:
        """Show the numbers of a log row, or of an interval that goes on, and the forecast if it is due."""
        late = time.monotonic() - self._shown >= LINE_SECONDS
        self._shown = time.monotonic()
        left = self._left(row)
        timed = self._done - self._began
        if not self._forecast_given and left > 0 and (timed >= FORECAST_AFTER or (late and timed > 1)):
            self._forecast_given = True
            self.show_message(self._forecast(row, left))
        numbers, end = describe_row(row), f"until {clock_time(left)}"
        if self._bar is not None:
            self._bar.update(self._task, numbers=f"{numbers}  {end}" if left > 0 else numbers)
        elif "step" in row or late:
            of = "" if self._steps is None else f"/{self._steps}"
            until = f"  {duration(left)} left, {end}" if left > 0 else ""
            self.show_message(f"step {self._done}{of}  {numbers}{until}")

    def show_message(self, text: str) -> None:
        """Print a message on a line of its own, above the bar if there is one."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _left(self, row: dict[str, Any]) -> float:
        """Return the seconds that are left of the run."""
        if self._seconds_left is not None:
            return self._seconds_left()
        assert self._steps is not None
        return float((self._steps - self._done) * row["seconds_per_step"])

    def _forecast(self, row: dict[str, Any], left: float) -> str:
        speed = f"forecast: {row['tokens_per_second']:,.0f} tokens/s"
        if self._steps is None:
            steps = self._done + left / max(row["seconds_per_step"], 1e-9)
            return f"{speed}, about {steps:,.0f} steps in all, until {clock_time(left)}"
        whole = time.monotonic() - self._begun + left
        return f"{speed}, about {duration(whole)} in all, until {clock_time(left)}"


def describe_row(row: dict[str, Any]) -> str:
    """Return the numbers of a log row as one short line."""
    loss = row["loss"]
    parts = [
        _no_loss(row) if loss is None else f"loss {loss:.3f}",
        f"{row['tokens_per_second']:,.0f} tokens/s",
        f"waiting {row['data_wait']:.0%}",
    ]
    if "mfu" in row:
        parts.append(f"MFU {row['mfu']:.1%}")
    if row["skipped"]:
        parts.append(f"{row['skipped']} updates skipped")
    return "  ".join(parts)


def _no_loss(row: dict[str, Any]) -> str:
    """Return why a row has no loss: skipped updates, or no step in which every objective predicted something."""
    if row["skipped"]:
        return "loss not finite"
    losses = {name.removesuffix("_loss"): value for name, value in row.items() if name.endswith("_loss")}
    if all(value is None for value in losses.values()):
        return "nothing to predict"
    nothing = [name for name, value in losses.items() if value is None]
    return f"nothing to predict for {nothing[0]}" if nothing else "no step with something to predict for every loss"


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def clock_time(seconds: float) -> str:
    """Return the clock time in so many seconds, with the day if it is not today."""
    now = datetime.now()
    try:
        end = now + timedelta(seconds=seconds)
    except OverflowError:
        # calendars end with the year 9999
        return f"the year {now.year + seconds / _SECONDS_OF_A_YEAR:,.0f}"
    if end.date() == now.date():
        return f"{end:%H:%M}"
    return f"{end:%a %H:%M}" if end - now < timedelta(days=6) else f"{end:%Y-%m-%d}"


def next_command(config: RunConfig, run: Path) -> str:
    """Return the command to try next: for a student the second stage, `fill-mask` after [MASK], else `analyse`."""
    if config.distillation.teacher is not None and not config.objective.mlm:
        return f"distill task classification TEACHER {as_typed(run)} --data.train FILE"
    shown = config.masking.strategy != "mac" and config.objective.mlm > 0
    return f'fill-mask {as_typed(run)} "text with a [MASK]"' if shown else f"analyse {as_typed(run)}"
