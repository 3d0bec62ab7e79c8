"""The section of docs/runs.md about learning beside the Trainer of `transformers`, from what `bench_learning.py` wrote.

A result file has `learning`, the name of the corpus; `minutes` of a side; `setting` and `command`, in words; and
`rounds`: for each the curve of each side, whose points have minutes, step, tokens, loss and masked accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import machine

__all__ = ["plot", "reached", "section"]

STOCK, OURS = "transformers", "unmask"
Point = Mapping[str, float]


def section(content: Mapping[str, Any], figure: str) -> str:
    """Return the section: the plot, the losses at each third of the minutes, and when ours reaches the other's last."""
    lines = [f"### learning beside transformers, {content['learning']}\n", machine.describe(dict(content)), ""]
    lines += [f"![held-out loss beside transformers, {content['learning']}]({figure})", ""]
    lines += [_told(number, curves) for number, curves in enumerate(content["rounds"], 1)]
    lines += ["", "| round | minutes | side | step | tokens | held-out loss | masked accuracy |"]
    lines.append("|---:|---:|---|---:|---:|---:|---:|")
    for number, curves in enumerate(content["rounds"], 1):
        for third in (1, 2, 3):
            for side in (STOCK, OURS):
                point = _nearest(curves[side], content["minutes"] * third / 3)
                cells = [str(number), f"{point['minutes']:.3g}", side, f"{point['step']:,}", f"{point['tokens']:,}"]
                cells += [f"{point['loss']:.3f}", f"{point['masked_accuracy']:.3f}"]
                lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Both sides: {content['setting']}. `{content['command']}`", ""]
    return "\n".join(lines)


def reached(curve: Sequence[Point], loss: float) -> float | None:
    """Return the minutes after which a curve is at a loss, on lines between its points; None if it never is."""
    if curve[0]["loss"] <= loss:
        return curve[0]["minutes"]
    for one, two in pairwise(curve):
        if two["loss"] <= loss < one["loss"]:
            share = (one["loss"] - loss) / (one["loss"] - two["loss"])
            return one["minutes"] + share * (two["minutes"] - one["minutes"])
    return None


def _told(number: int, curves: Mapping[str, Sequence[Point]]) -> str:
    theirs, ours = curves[STOCK][-1], curves[OURS][-1]
    beginning = f"- Round {number}: {STOCK} ends with a held-out loss of {theirs['loss']:.3f} after"
    beginning += f" {theirs['minutes']:.3g} minutes. {OURS}"
    shorter = {side: curve[-1]["loss"] for side, curve in curves.items() if side not in (STOCK, OURS)}
    rest = "".join(f" A run of its own, {side}, ends with {loss:.3f}." for side, loss in shorter.items())
    minutes = reached(curves[OURS], theirs["loss"])
    if minutes is None:
        return f"{beginning} does not get there: it ends with {ours['loss']:.3f}.{rest}"
    times = theirs["minutes"] / minutes
    return (
        f"{beginning} is there after {minutes:.3g}, {times:.2f} times as soon, and ends with {ours['loss']:.3f}.{rest}"
    )


def _nearest(curve: Sequence[Point], minutes: float) -> Point:
    return min(curve, key=lambda point: abs(point["minutes"] - minutes))


def plot(content: Mapping[str, Any], path: Path) -> None:
    """Draw the held-out loss of both sides over the minutes, each round."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, curves in enumerate(content["rounds"]):
        for side, curve in curves.items():
            axes.plot(
                *zip(*((point["minutes"], point["loss"]) for point in curve), strict=True),
                ":" if side not in (STOCK, OURS) else "-",
                color="tab:orange" if side == STOCK else "tab:blue",
                label=side if number == 0 else None,
                marker=".",
                linewidth=1,
                alpha=1 / (1 + number / 2),
            )
    axes.set(xlabel="minutes of training", ylabel="held-out loss (nats)", title=content["learning"])
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
