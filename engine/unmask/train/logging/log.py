"""The log of a run: JSON objects, one a line, and the same numbers at other destinations if asked for.

log.jsonl           a row for each log interval
evaluation.jsonl    a row for each evaluation on held-out text

Each line is written without a buffer, so a killed run loses none. A resumed run first removes the rows after the step
that it resumes from, so its files equal those of a run that was never interrupted. Numbers that are not finite are
written as null, because JSON cannot express them. `destinations` has the other places.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unmask.paths import replace_text
from unmask.train.logging.destinations import DESTINATIONS, Sender, senders
from unmask.train.run_folder import not_written

__all__ = ["RunLog", "UnwrittenLog", "destinations_of", "read_evaluations", "read_log"]

LOG = "log.jsonl"
EVALUATIONS = "evaluation.jsonl"


class RunLog:
    """Appends rows to `folder/log.jsonl` and `folder/evaluation.jsonl`.

    Args:
        folder: directory of the run.
        done: steps done so far. Rows of later steps are removed.
        to: destinations that get the numbers of every row too, keys of `DESTINATIONS`.
        settings: settings of the run in their groups, for these destinations.
    Raises:
        ConfigError: the package of a destination is not installed.
        RunError: a file cannot be written. The methods raise it too.
    """

    def __init__(
        self, folder: Path, *, done: int = 0, to: Iterable[str] = (), settings: Mapping[str, Any] | None = None
    ) -> None:
        to = list(to)
        self._senders: list[Sender] = senders(folder, to, done=done, settings=settings or {}) if to else []
        self._rows = _Lines(folder / LOG, done)
        self._evaluations = _Lines(folder / EVALUATIONS, done)

    def write(self, row: dict[str, Any]) -> None:
        """Write the row of a log interval, which must have `step`."""
        self._rows.append(row)
        self._send("train", row)

    def write_evaluation(self, row: dict[str, Any]) -> None:
        """Write the row of an evaluation, which must have `step`."""
        self._evaluations.append({"event": "evaluate"} | row)
        self._send("evaluate", row)

    @property
    def evaluated(self) -> int:
        """Step of the last evaluation; -1 before the first."""
        return -1 if self._evaluations.last is None else int(self._evaluations.last["step"])

    @property
    def logged(self) -> tuple[int, int]:
        """Step of the last row of a log interval, and the tokens until there; zeros before the first."""
        last = self._rows.last or {}
        return last.get("step", 0), last.get("tokens", 0)

    def close(self) -> None:
        """Close the files, and wait for the destinations."""
        self._rows.close()
        self._evaluations.close()
        for sender in self._senders:
            sender.close()

    def _send(self, group: str, row: dict[str, Any]) -> None:
        for sender in self._senders:
            sender.put(group, row)


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

    @property
    def logged(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        """Close nothing."""


def destinations_of(train: object) -> list[str]:
    """Return the destinations that the settings in the group `train` of a run ask for."""
    return [name for name in DESTINATIONS if getattr(train, name)]


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return all training rows of a run, in order, without a last line that a crash cut short."""
    return _whole_rows(folder / LOG)


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Return all evaluation rows of a run, in order; an empty list if there is no file yet."""
    return _whole_rows(folder / EVALUATIONS) if (folder / EVALUATIONS).exists() else []


class _Lines:
    """A file of rows that is cut at a step and then appended to. `last` is its last row; None if it has none."""

    def __init__(self, path: Path, done: int) -> None:
        self._path = path
        self.last: dict[str, Any] | None = None
        try:
            if path.exists():
                kept = [row for row in _whole_rows(path) if row["step"] <= done]
                self.last = kept[-1] if kept else None
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
        self.last = row

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
