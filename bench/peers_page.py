"""The section of docs/measured.md that shows tasks done by stock libraries and by ours, from the rows of `pairs.py`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench import machine
from bench.pairs import GROUP

__all__ = ["GROUP", "section"]

_HEAD = """## Beside transformers and sentence-transformers

Both sides do the same task with the same weights and examples, in turn. Seconds are the processor's, of all threads
together. A ratio is the stock side's seconds over ours in one round; the table has the median over the rounds and, in
brackets, the lowest and the highest. Losses are the mean over seeds of dropout and their standard deviation.
"""

Row = dict[str, Any]
Part = tuple[dict[str, Any], list[Row]]
"""A result file and its rows of one group."""


def section(machines: Sequence[Mapping[str, Sequence[Part]]]) -> str:
    """Return the section, with a table for each machine and commit, from the groups of each machine by name."""
    tables: dict[str, list[tuple[Row, Row]]] = {}
    found = (parts for groups in machines for group, parts in groups.items() if group.startswith(GROUP))
    for content, rows in (part for parts in found for part in parts):
        known = {(row["extra_info"]["case"], row["extra_info"]["variant"]): row for row in rows}
        for row in rows:
            stock = known[row["extra_info"]["case"], row["extra_info"]["baseline"]]
            if row is not stock:
                tables.setdefault(_described(content), []).append((stock, row))
    lines = [_HEAD]
    for described, pairs in tables.items():
        lines += [f"{described}\n", "| task | order | stock | ours | ratio |", "|---|---|---:|---:|---:|"]
        lines += [_line(stock, ours) for stock, ours in pairs]
        lines += ["", *dict.fromkeys(_note(pairs, ours) for _, ours in pairs), ""]
    return "\n".join(lines if tables else [*lines, "Nothing of it has been measured yet.\n"])


def _described(content: dict[str, Any]) -> str:
    version = content["machine_info"].get("sentence-transformers")
    return f"{machine.describe(content)[:-1]}{f', sentence-transformers {version}' if version else ''}."


def _line(stock: Row, ours: Row) -> str:
    info = ours["extra_info"]
    cells = [info["task"], info["order"], *(_side(row) for row in (stock, ours)), _compared(stock, ours)]
    return f"| {' | '.join(cells)} |"


def _side(row: Row) -> str:
    """Return what a side reads in a second, or its losses."""
    info, stats = row["extra_info"], row["stats"]
    if info["unit"] == "loss":
        return f"{stats['mean']:.4f} ± {_deviation(row):.4f}"
    return f"{info['units'] / stats['median']:,.4g} {info['unit']}/s"


def _compared(stock: Row, ours: Row) -> str:
    """Return the ratio with its spread; of losses how far the means are apart."""
    if ours["extra_info"]["unit"] == "loss":
        seeds = len(ours["stats"]["data"])
        error = ((_deviation(stock) ** 2 + _deviation(ours) ** 2) / seeds) ** 0.5
        apart = abs(stock["stats"]["mean"] - ours["stats"]["mean"])
        return f"{seeds} seeds, {apart / error:.1f} standard errors apart" if error else f"{seeds} seeds"
    ratios = _ratios(stock["stats"]["data"], ours["stats"]["data"])
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _note(pairs: Sequence[tuple[Row, Row]], of: Row) -> str:
    """Return the line about the setting of a task, its ratios by the clock, and its command."""
    info, rounds = of["extra_info"], len(of["stats"]["data"])
    same = [pair for pair in pairs if pair[1]["extra_info"]["command"] == info["command"]]
    clocks = (
        [_ratios(one["extra_info"]["clock_seconds"], two["extra_info"]["clock_seconds"]) for one, two in same]
        if (info["unit"] != "loss")
        else []
    )
    by_clock = f" By the clock: {', '.join(f'{statistics.median(ratios):.2f}' for ratios in clocks)}." if clocks else ""
    kind = "seeds" if info["unit"] == "loss" else "rounds"
    return f"- **{info['task']}**: {info['setting']}; {rounds} {kind}.{by_clock} `{info['command']}`"


def _ratios(stock: Sequence[float], ours: Sequence[float]) -> list[float]:
    return [one / two for one, two in zip(stock, ours, strict=True)]


def _deviation(row: Row) -> float:
    values = row["stats"]["data"]
    return statistics.stdev(values) if len(values) > 1 else 0.0
