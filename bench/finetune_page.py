"""The section of docs/runs.md about fine-tuning beside `transformers`, from what `bench_finetune_runs.py` wrote.

A result file has `finetuning`, the name of the recipe; `model`, `data` and `command`, in words; `metric`, the score
that is shown; `inputs`, how many inputs a run reads; and `sides`: for each its runs, one a seed, with the scores of
`dev` and `test`, their `intervals`, and the `seconds` of training without evaluations.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench import machine

__all__ = ["NEW", "OURS", "STOCK", "section", "table"]

STOCK, OURS, NEW = "transformers", "unmask", "new weights"


def section(contents: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of the results of a machine."""
    lines = [
        "### Fine-tuning\n",
        "Each seed of both sides begins with the same weights and reads the same tokens, with the same settings; the "
        "Trainer has batches of nearly equal length. Scores are in percent; ± is the standard deviation over the "
        "seeds; brackets are the interval of 95 % of a single run (bootstrap). Examples/s are of training by the "
        "clock, without evaluations; an example of question answering is a window. The ratio is the median over the "
        "seeds.\n",
        table(contents),
        "",
    ]
    for content in contents:
        lines.append(f"- {content['finetuning']}: {machine.describe(dict(content))} `{content['command']}`")
    return "\n".join([*lines, ""])


def table(contents: Sequence[Mapping[str, Any]]) -> str:
    """Return the table, a row for each result."""
    new = any(NEW in content["sides"] for content in contents)
    names = ["recipe", "model", "data", "score", "seeds", OURS, STOCK, *([NEW] if new else [])]
    speeds = [f"{OURS}, examples/s", f"{STOCK}, examples/s", "ratio"]
    lines = [f"| {' | '.join([*names, *speeds])} |", "|---|---|---|---|" + "---:|" * (len(names) + len(speeds) - 4)]
    for content in contents:
        sides = content["sides"]
        part = "test" if "test" in sides[OURS][0] else "dev"
        cells = [content["finetuning"], content["model"], content["data"], f"{content['metric']}, {part}"]
        cells.append(str(len(sides[OURS])))
        cells += [_score(sides.get(side), part, content["metric"]) for side in (OURS, STOCK, *([NEW] if new else []))]
        cells += [_speed(sides.get(side), content["inputs"]) for side in (OURS, STOCK)]
        both = zip(sides.get(STOCK, ()), sides[OURS], strict=False)
        ratios = [theirs["seconds"] / ours["seconds"] for theirs, ours in both]
        cells.append(f"{statistics.median(ratios):.2f}" if ratios else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _score(runs: Sequence[Mapping[str, Any]] | None, part: str, metric: str) -> str:
    """Return mean and deviation over seeds; of one seed, the score and its interval."""
    if not runs:
        return ""
    values = [run[part][metric] for run in runs]
    if len(values) > 1:
        return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    interval = runs[0]["intervals"].get(part, {}).get(metric)
    return f"{values[0]:.2f}" + ("" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]")


def _speed(runs: Sequence[Mapping[str, Any]] | None, inputs: int) -> str:
    return f"{statistics.median(inputs / run['seconds'] for run in runs):.1f}" if runs else ""
