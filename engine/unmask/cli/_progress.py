"""How far a command is, on standard error: a bar for each stage on a terminal, anywhere else a line now and then."""

import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from unmask.terminal import with_width

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import TaskID

__all__ = ["ProgressReport"]

_LINE_SECONDS = 30.0


class ProgressReport(AbstractContextManager["ProgressReport"]):
    """Shows the stages of a command. As a context around the work, it leaves the terminal clean.

    Args:
        first_seconds: where there is no bar, the time before the first line; with 0, each stage begins with a line.
    """

    def __init__(self, *, first_seconds: float = 0.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = with_width(Console(stderr=True))
        self._bar: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._tells_stages = first_seconds == 0.0
        self._due = time.monotonic() + first_seconds

    def update(self, stage: str, numbers: str, *, done: float, total: float | None, ending: str = " so far") -> None:
        """Show how far a stage is.

        Args:
            stage: its name.
            numbers: how far, in words.
            done: part of the total that is done.
            total: all that is to be done, if that is known.
            ending: what stands behind `numbers` where there is no bar.
        """
        new = stage not in self._tasks
        if new:
            self._tasks[stage] = self._bar.add_task(stage, total=total, numbers=numbers)
        self._bar.update(self._tasks[stage], completed=done, total=total, numbers=numbers)
        now = time.monotonic()
        if not self._console.is_terminal and ((new and self._tells_stages) or now >= self._due):
            self._console.print(f"{stage}: {numbers}{ending}", highlight=False, markup=False, soft_wrap=True)
            self._due = now + _LINE_SECONDS

    def show(self, message: str) -> None:
        """Print a message on a line of its own, above the bar if there is one."""
        self._console.print(f"unmask: {message}", highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> "ProgressReport":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._bar.stop()
