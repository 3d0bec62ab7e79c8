"""The progress display of a run: a bar on a terminal, plain lines anywhere else."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unmask.config import RunConfig
from unmask.paths import as_typed
from unmask.terminal import lasting, with_width

__all__ = ["Display", "next_command"]


class Display:
    """Shows the progress of a run of `steps` steps. As a context around the loop, it leaves the terminal clean."""

    def __init__(self, *, steps: int, console: Console | None = None) -> None:
        # A run must not fail because its output cannot be written.
        self._console = with_width(console if console is not None else Console(file=lasting(sys.stdout)))
        self._bar: Progress | None = None
        self._steps = steps
        self._done = 0
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("train", total=steps, numbers="")

    def __enter__(self) -> "Display":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, done: int) -> None:
        """Show that `done` steps are done."""
        self._done = done
        if self._bar is not None:
            self._bar.reset(self._task, total=self._steps, completed=done, numbers="")

    def advance(self) -> None:
        """Show that one more step is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)

    def show(self, row: dict[str, Any]) -> None:
        """Show the numbers of a log row."""
        numbers = describe_row(row)
        if self._bar is not None:
            self._bar.update(self._task, numbers=numbers)
        else:
            left = _duration((self._steps - self._done) * row["seconds_per_step"])
            self.show_message(f"step {self._done}/{self._steps}  {numbers}  {left} left")

    def show_message(self, text: str) -> None:
        """Print a message on a line of its own, above the bar if there is one."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def next_command(config: RunConfig, run: Path) -> str:
    """Return the command to try next: `fill-mask` if the training used [MASK], else `analyse`."""
    shown = config.data.masking != "mac" and config.objective.mlm > 0
    return f'fill-mask {as_typed(run)} "text with a [MASK]"' if shown else f"analyse {as_typed(run)}"
