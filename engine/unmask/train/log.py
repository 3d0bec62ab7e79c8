"""The log of a run: one JSON object a line, always; TensorBoard events beside it when asked.

Every line is flushed as it is written, so a killed run loses none. On resume the lines after the resumed step are cut
off: the file then reads as that of a run that was never interrupted. Numbers that are not finite are written as null,
because JSON has no word for them.
"""

import json
import math
from pathlib import Path
from typing import Any, TextIO

from unmask.errors import ConfigError

__all__ = ["RunLog", "event_writer_class", "read_log"]


class RunLog:
    """Appends rows to `folder/log.jsonl`.

    Args:
        folder: of the run.
        done: steps the run has behind it; rows of later steps are removed first.
        tensorboard: write the numbers of every row to `folder/tensorboard` too.
    Raises:
        ConfigError: TensorBoard was asked for and is not installed.
    """

    def __init__(self, folder: Path, *, done: int = 0, tensorboard: bool = False) -> None:
        path = folder / "log.jsonl"
        if path.exists():
            _truncate(path, done)
        self._events: Any = None
        if tensorboard:
            self._events = event_writer_class()(str(folder / "tensorboard"), purge_step=done + 1)
        self._lines: TextIO = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Write one row; it must hold `step`."""
        clean = {key: _finite(value) for key, value in row.items()}
        self._lines.write(json.dumps(clean, allow_nan=False) + "\n")
        self._lines.flush()
        if self._events is not None:
            prefix = row.get("event", "train")
            for key, value in clean.items():
                if key != "step" and isinstance(value, int | float):
                    self._events.add_scalar(f"{prefix}/{key}", value, row["step"])
            self._events.flush()

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        if self._events is not None:
            self._events.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All whole rows of a run's log, in order; a last line cut short by a crash is left out."""
    return [row for _, row in _whole_lines(folder / "log.jsonl")]


def _whole_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append((line, json.loads(line)))
        except json.JSONDecodeError:
            break
    return rows


def _truncate(path: Path, step: int) -> None:
    kept = [line for line, row in _whole_lines(path) if row["step"] <= step]
    partial = path.with_name(".log.jsonl.partial")
    partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    partial.replace(path)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def event_writer_class() -> Any:
    """TensorBoard's writer of events.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "config: train.tensorboard needs the package tensorboard, which is not installed; "
            "`pip install unmask[tensorboard]`, or leave it off: log.jsonl holds the same numbers"
        ) from error
    return SummaryWriter
