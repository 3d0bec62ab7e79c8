"""The losses of a run from its log.jsonl and evaluation.jsonl, over steps, tokens and training time.

Training time is the sum of `seconds_per_step` over the steps of each row. It leaves out evaluations, checkpoints and
the first step of each process, in which kernels are compiled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from unmask.config import ObjectiveConfig
from unmask.errors import RunError
from unmask.train.logging.log import read_evaluations, read_log

__all__ = ["Curve", "RunProgress", "read_curves", "read_objectives", "read_progress", "read_unigram"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Losses in nats at optimizer steps, one entry per logged row."""

    steps: list[int]
    losses: list[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunProgress:
    """Tokens and training time at the steps of the rows, from step 0 on.

    Attributes:
        steps: steps of the rows, ascending, with a 0 before the first.
        tokens: real tokens until there.
        seconds: training time until there.
    """

    steps: list[int]
    tokens: list[float]
    seconds: list[float]

    def tokens_at(self, steps: Sequence[int]) -> list[float]:
        """Return the tokens at some steps, on lines between the rows."""
        return np.interp(steps, self.steps, self.tokens).tolist()

    def seconds_at(self, steps: Sequence[int]) -> list[float]:
        """Return the training time at some steps, on lines between the rows."""
        return np.interp(steps, self.steps, self.seconds).tolist()


def read_curves(folder: Path) -> tuple[Curve, Curve]:
    """Return training and held-out losses of the run in `folder`, without steps whose loss was not finite.

    Raises:
        RunError: there is no log, or nothing was logged yet.
    """
    if not (folder / "log.jsonl").is_file():
        lacks = "has no log.jsonl" if folder.exists() else "does not exist"
        raise RunError(f"{folder} {lacks}; give the directory of a run")
    training: dict[int, float] = {}
    held_out: dict[int, float] = {}
    for row in read_log(folder) + read_evaluations(folder):
        if row.get("loss") is not None:
            (held_out if row.get("event") == "evaluate" else training)[row["step"]] = row["loss"]
    if not training:
        raise RunError(f"{folder} has no logged step yet; wait for the first, after train.log_every steps")
    return _curve(training), _curve(held_out)


def read_unigram(folder: Path) -> float | None:
    """Return the loss of a model that knows only token frequencies; None if no evaluation was logged with it."""
    losses = [row["unigram_loss"] for row in read_evaluations(folder) if row.get("unigram_loss") is not None]
    return losses[-1] if losses else None


def read_objectives(folder: Path) -> dict[str, Curve]:
    """Return the training loss of each objective of the run in `folder`; nothing if it has one objective."""
    rows = read_log(folder)
    losses = {
        field.name: {row["step"]: row[key] for row in rows if row.get(key) is not None}
        for field in fields(ObjectiveConfig)
        for key in [f"{field.name}_loss"]
    }
    return {name: _curve(found) for name, found in losses.items() if found}


def read_progress(folder: Path) -> RunProgress:
    """Return the tokens and the training time of the run in `folder` at each row of its log."""
    return progress_of(read_log(folder))


def progress_of(rows: Sequence[dict[str, Any]]) -> RunProgress:
    """Return the tokens and the training time at each row of a log."""
    found = RunProgress(steps=[0], tokens=[0.0], seconds=[0.0])
    for row in rows:
        steps = row["step"] - found.steps[-1]
        found.steps.append(row["step"])
        found.tokens.append(float(row.get("tokens") or found.tokens[-1]))
        found.seconds.append(found.seconds[-1] + steps * float(row.get("seconds_per_step") or 0.0))
    return found


def _curve(losses: dict[int, float]) -> Curve:
    steps = sorted(losses)
    return Curve(steps=steps, losses=[losses[step] for step in steps])
