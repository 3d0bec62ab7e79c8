"""A task done by a stock library and by ours in turn: the rounds, what is printed of them, and their rows in a result.

A `Pair` is one task in one order of the examples. Each round times both sides on the same work, one after the other.
The ratio of a round is the stock side's time of the processor over ours, for as many examples; the median over the
rounds counts. `peers_page.py` shows the rows in docs/measured.md. Their `extra_info` has, beside the names that
`record.py` describes:

    task, order      what was done, and in which order the stock side read the examples
    units, unit      how many a round reads of what, such as examples
    setting          model, data, batch, dtype and attention of the stock side, in words
    command          what measured it, without folders
    clock_seconds    the seconds of each round by the clock; the others are the processor's, of all threads together
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import record

__all__ = ["GROUP", "OURS", "Pair", "Seconds", "command", "in_words", "losses", "save", "source", "timed"]

GROUP = "beside: "
"""What the groups of these rows begin with."""

OURS = "unmask"


@dataclass(frozen=True, slots=True)
class Seconds:
    """What some work took, by the processor's time and by the clock."""

    processor: float
    clock: float


def timed(work: Callable[[], object]) -> Seconds:
    """Do some work and return its seconds."""
    processor, clock = time.process_time(), time.perf_counter()
    work()
    return Seconds(time.process_time() - processor, time.perf_counter() - clock)


@dataclass(kw_only=True, slots=True)
class Pair:
    """The rounds of a task in one order.

    Attributes:
        task: what both sides do.
        order: how the stock side orders the examples.
        stock: the stock side.
        unit: what is counted.
        rounds: of each side, how many units it read and what that took.
    """

    task: str
    order: str
    stock: str = "transformers"
    unit: str = "examples"
    rounds: dict[str, list[tuple[float, Seconds]]] = field(default_factory=dict)

    def add(self, stock: Seconds, ours: Seconds, *, count: float, our_count: float | None = None) -> None:
        """Add a round in which both sides read `count` units, or ours `our_count`."""
        self.rounds.setdefault(self.stock, []).append((count, stock))
        self.rounds.setdefault(OURS, []).append((count if our_count is None else our_count, ours))

    def seconds(self, side: str, clock: str = "processor") -> list[float]:
        """Return the seconds of the rounds of a side, each for as many units as the stock side's first round has."""
        (count, _), *_ = self.rounds[self.stock]
        return [getattr(taken, clock) * count / read for read, taken in self.rounds[side]]

    def ratio(self, clock: str = "processor") -> float:
        """Return the median of the rounds' ratios."""
        both = zip(self.seconds(self.stock, clock), self.seconds(OURS, clock), strict=True)
        return statistics.median(stock / ours for stock, ours in both)

    def __str__(self) -> str:
        count = len(self.rounds[OURS])
        return f"{self.ratio():.2f} times the {self.unit}/s of {self.stock}, {self.order} ({count} rounds)"

    def rows(self, setting: str, command: str) -> list[dict[str, Any]]:
        """Return the rows of both sides."""
        return [
            record.benchmark_entry(
                f"{GROUP}{self.task}",
                side,
                self.seconds(side),
                case=f"{self.order}, {setting}",
                baseline=self.stock,
                task=self.task,
                order=self.order,
                units=self.rounds[self.stock][0][0],
                unit=self.unit,
                setting=setting,
                command=command,
                clock_seconds=self.seconds(side, "clock"),
            )
            for side in (self.stock, OURS)
        ]


def losses(task: str, found: dict[str, list[float]], setting: str, command: str) -> list[dict[str, Any]]:
    """Return rows with the losses of both sides over several seeds, in the place of seconds."""
    stock, _ = found
    return [
        record.benchmark_entry(
            f"{GROUP}{task}",
            side,
            values,
            case=f"random order, {setting}",
            baseline=stock,
            task=task,
            order="random order",
            unit="loss",
            setting=setting,
            command=command,
        )
        for side, values in found.items()
    ]


def in_words(model: Any) -> str:
    """Return sizes, dtype and attention of a BERT of `transformers`, the stock side."""
    config, dtype = model.config, str(model.dtype).removeprefix("torch.")
    return (
        f"BERT of {config.num_hidden_layers} layers, hidden {config.hidden_size}, {dtype}, stock side with "
        f"{config._attn_implementation} attention"
    )


def source(file: str | Path) -> str:
    """Return the name of a data file with that of its folder, and no more of its path."""
    return "/".join(Path(file).resolve().parts[-2:])


def command(script: str, words: Sequence[str]) -> str:
    """Return the command of a bench without folders and without `--out`."""
    kept = list(words)
    if "--out" in kept:
        at = kept.index("--out")
        del kept[at : at + 2]
    names = [Path(word).name if "/" in word else word for word in kept if not word.startswith("--out=")]
    return " ".join([Path(script).name, *names])


def save(out: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows into a result file; `auto` is one of that name in bench/results."""
    record.save(record.result_path(name) if str(out) == "auto" else out, record.benchmark_file(rows))
