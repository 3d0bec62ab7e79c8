"""The log of a run: JSON objects, one a line, and TensorBoard events if asked for.

log.jsonl           a row for each log interval
evaluation.jsonl    a row for each evaluation on held-out text

Each line is written without a buffer, so a killed run loses none. A resumed run first removes the rows after the step
that it resumes from, so its files equal those of a run that was never interrupted. Numbers that are not finite are
written as null, because JSON cannot express them.
"""

import json
import math
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError
from unmask.paths import replace_text
from unmask.train.run_folder import not_written

__all__ = ["RunLog", "UnwrittenLog", "event_writer_class", "read_evaluations", "read_log"]

LOG = "log.jsonl"
EVALUATIONS = "evaluation.jsonl"


class RunLog:
    """Appends rows to `folder/log.jsonl` and `folder/evaluation.jsonl`.

    Args:
        folder: directory of the run.
        done: steps done so far. Rows of later steps are removed.
        tensorboard: also write the numbers of every row to `folder/tensorboard`.
    Raises:
        ConfigError: TensorBoard was asked for and is not installed.
        RunError: a file cannot be written. The methods raise it too.
    """

    def __init__(self, folder: Path, *, done: int = 0, tensorboard: bool = False) -> None:
        self._events: Any = None
        if tensorboard:
            self._events = event_writer_class()(str(folder / "tensorboard"), purge_step=done + 1)
        self._rows = _Lines(folder / LOG, done)
        self._evaluations = _Lines(folder / EVALUATIONS, done)

    def write(self, row: dict[str, Any]) -> None:
        """Write the row of a log interval, which must have `step`."""
        self._rows.append(row)
        self._show("train", row)

    def write_evaluation(self, row: dict[str, Any]) -> None:
        """Write the row of an evaluation, which must have `step`."""
        self._evaluations.append({"event": "evaluate"} | row)
        self._show("evaluate", row)

    @property
    def evaluated(self) -> int:
        """Step of the last evaluation; -1 before the first."""
        return self._evaluations.last

    def close(self) -> None:
        """Close the files."""
        self._rows.close()
        self._evaluations.close()
        if self._events is not None:
            self._events.close()

    def _show(self, group: str, row: dict[str, Any]) -> None:
        if self._events is None:
            return
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float) and math.isfinite(value):
                self._events.add_scalar(f"{group}/{key}", value, row["step"])
        self._events.flush()


class UnwrittenLog(RunLog):
    """The log of a rank that writes none; it knows what rank 0 has written.

    Args:
        evaluated: step of the last evaluation of rank 0.
    """

    def __init__(self, evaluated: int) -> None:
        self._evaluated = evaluated

    def write(self, row: dict[str, Any]) -> None:
        """Write nothing."""

    def write_evaluation(self, row: dict[str, Any]) -> None:
        """Note the step."""
        self._evaluated = row["step"]

    @property
    def evaluated(self) -> int:
        return self._evaluated

    def close(self) -> None:
        """Close nothing."""


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return all training rows of a run, in order, without a last line that a crash cut short."""
    return _whole_rows(folder / LOG)


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Return all evaluation rows of a run, in order; an empty list if there is no file yet."""
    return _whole_rows(folder / EVALUATIONS) if (folder / EVALUATIONS).exists() else []


class _Lines:
    """A file of rows that is cut at a step and then appended to. `last` is the step of its last row."""

    def __init__(self, path: Path, done: int) -> None:
        self._path = path
        self.last = -1
        try:
            if path.exists():
                kept = [row for row in _whole_rows(path) if row["step"] <= done]
                self.last = kept[-1]["step"] if kept else -1
                replace_text(path, "".join(_line(row) for row in kept))
            # Without a buffer, closing the file after a failed write does not fail again.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise not_written(path, error) from error

    def append(self, row: dict[str, Any]) -> None:
        left = _line(row).encode()
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise not_written(self._path, error) from error
        self.last = row["step"]

    def close(self) -> None:
        self._file.close()


def _line(row: dict[str, Any]) -> str:
    missing = {key: None for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    return json.dumps(row | missing, allow_nan=False) + "\n"


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def event_writer_class() -> Any:
    """Return TensorBoard's class of event writers.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "config: train.tensorboard needs the package tensorboard, which is not installed; "
            "`pip install 'unmask[tensorboard]'`, or leave it off: log.jsonl holds the same numbers"
        ) from error
    return SummaryWriter
