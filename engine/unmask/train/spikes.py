"""The guard against loss spikes: what a spike is, and which data a run leaves out after one.

The guard reads the losses in the rows of the log, each the mean over a log interval:

    median, spread = median and median absolute deviation of the losses of the up to 32 rows before the first high one
    limit          = median + factor * max(spread, 0.01 * median)
    a row is high    if its loss is above the limit, or if it has no loss because its updates were skipped
    a spike          is so many high rows one after the other, with at least 8 rows with a loss before them

After a spike the run goes back to the newest checkpoint before it, and reads the same data again up to the spike. The
micro-batches of the spike are left out, and the stream goes on behind them. `spikes.jsonl` in the run directory has a
row for each spike. So a resumed run knows what is left out, and the decision follows from the rows of log.jsonl alone.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from unmask.paths import replace_text

__all__ = ["SPIKES", "LeftOut", "Spike", "SpikeGuard", "add_spike", "merged", "read_spikes"]

SPIKES = "spikes.jsonl"
"""The file of a run with a row for each spike that it went back from."""

_ROWS_BEFORE, _FEWEST_BEFORE = 32, 8
# a curve that hardly moves has hardly a spread
_LEAST_SPREAD = 0.01


class LeftOut(NamedTuple):
    """Micro-batches of a phase that the run does not read: numbers first, ..., first + size - 1 of its stream."""

    phase: int
    first: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Spike:
    """A spike of the loss.

    Attributes:
        before: last step before it.
        last: its last step.
        loss: highest loss of its rows; None if none of them has one.
        limit: loss above which a row was high.
    """

    before: int
    last: int
    loss: float | None
    limit: float

    def __str__(self) -> str:
        rose = "was not finite" if self.loss is None else f"rose to {self.loss:.3f}"
        return f"the loss {rose} in steps {self.before + 1} to {self.last}, where {self.limit:.3f} is the limit"


class SpikeGuard:
    """Looks at each row of the log.

    Args:
        factor: times the spread.
        rows: high rows that make a spike.
        logged: rows of the log so far.
    """

    def __init__(self, factor: float, rows: int, logged: Iterable[dict[str, Any]]) -> None:
        self._factor, self._needed = factor, rows
        self._rows = deque(logged, maxlen=_ROWS_BEFORE + rows)

    def look(self, row: dict[str, Any]) -> Spike | None:
        """Add a row, and return the spike that it ends."""
        self._rows.append(row)
        rows = list(self._rows)
        before, last = rows[: -self._needed], rows[-self._needed :]
        losses = [loss for one in before if (loss := _loss(one)) is not None]
        if len(losses) < _FEWEST_BEFORE:
            return None
        middle = median(losses)
        spread = median(abs(loss - middle) for loss in losses)
        limit = middle + self._factor * max(spread, _LEAST_SPREAD * abs(middle))
        if not all(_is_high(one, limit) for one in last):
            return None
        found = [loss for one in last if (loss := _loss(one)) is not None]
        return Spike(before=before[-1]["step"], last=row["step"], loss=max(found, default=None), limit=limit)


def _loss(row: dict[str, Any]) -> float | None:
    loss = row.get("loss")
    return loss if loss is not None and math.isfinite(loss) else None


def _is_high(row: dict[str, Any], limit: float) -> bool:
    loss = _loss(row)
    return row["skipped"] > 0 if loss is None else loss > limit


def merged(parts: Iterable[LeftOut]) -> list[LeftOut]:
    """Return parts in the order of the stream, those that touch as one."""
    found: list[LeftOut] = []
    for part in sorted(parts):
        last = found[-1] if found else None
        if last is not None and last.phase == part.phase and part.first <= last.first + last.size:
            end = max(last.first + last.size, part.first + part.size)
            found[-1] = LeftOut(last.phase, last.first, end - last.first)
        else:
            found.append(part)
    return found


def add_spike(run: Path, spike: Spike, *, back_to: int, left_out: Sequence[LeftOut]) -> None:
    """Write the row of a spike, whole or not at all.

    Args:
        run: the run directory.
        spike: the spike.
        back_to: step of the checkpoint that the run goes back to.
        left_out: micro-batches that are left out because of it.
    """
    row = {
        "event": "spike",
        "step": spike.last,
        "first_step": spike.before + 1,
        "loss": spike.loss,
        "limit": spike.limit,
        "back_to": back_to,
        "left_out": [part._asdict() for part in left_out],
    }
    file = run / SPIKES
    before = file.read_text("utf-8") if file.exists() else ""
    replace_text(file, before + json.dumps(row) + "\n")


def read_spikes(run: Path) -> list[dict[str, Any]]:
    """Return the rows of the spikes of a run, in their order."""
    file = run / SPIKES
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
