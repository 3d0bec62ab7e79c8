"""The sections of a report that follow from the files of a run: its curves, evaluations, speed and settings."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from unmask.reporting.charts import Line, chart
from unmask.reporting.curves import progress_of
from unmask.reporting.page import facts_list, section, table_of
from unmask.reporting.samples import FilledSample

__all__ = [
    "cell_text",
    "curves_section",
    "evaluation_section",
    "object_in",
    "samples_section",
    "settings_section",
    "speed_section",
    "spikes_section",
]

_EVALUATIONS = 12
_LONG = 400
# keys of an evaluation that are no scores
_NO_SCORES = ("event", "step", "max_length", "epoch", "unigram_loss")
_SPEED = {
    "tokens_per_second": "real tokens per second",
    "seconds_per_step": "seconds per step",
    "mfu": "MFU, share of the peak",
    "data_wait": "share of the time waiting for data",
    "packing_efficiency": "packing efficiency",
    "peak_memory_bytes": "peak memory",
    "examples_per_second": "examples per second",
}


def cell_text(value: Any) -> str:
    """Return a value as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONG else f"{text[:_LONG]} …"


def curves_section(rows: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], *, held_out: str) -> str:
    """Return the charts of a run.

    Args:
        rows: of the log.
        evaluations: rows of the evaluations.
        held_out: what the evaluations score, for the legend.
    """
    unigram = [row["unigram_loss"] for row in evaluations if row.get("unigram_loss") is not None]
    steps = [row["step"] for row in rows]
    losses = [_line("training", rows, "loss"), _line(held_out, evaluations, "loss", points=True)]
    if unigram and steps:
        ends = [0, steps[-1]]
        losses.append(Line(name="token frequencies alone", x=ends, y=[unigram[-1]] * 2, dashed=True))
    objectives = [_line(key.removesuffix("_loss"), rows, key) for key in _keys(rows) if key.endswith("_loss")]
    accuracies = [
        *(_line(f"training, {_name(key)}", rows, key) for key in _keys(rows) if key.endswith("accuracy")),
        *(
            _line(f"{held_out}, {_name(key)}", evaluations, key, points=True)
            for key in _keys(evaluations)
            if key.endswith("accuracy")
        ),
    ]
    scores = [
        _line(_name(key), evaluations, key, points=True)
        for key in _keys(evaluations)
        if key not in _NO_SCORES and not key.endswith(("loss", "accuracy", "perplexity", "tokens", "count"))
    ]
    norms = [_line("all", rows, "gradient_norm")]
    norms += [
        _line(_name(key.removeprefix("gradient_norm_")), rows, key)
        for key in _keys(rows)
        if key.startswith("gradient_norm_")
    ]
    made = [
        chart("Loss (nats)", losses, x_label="step"),
        chart("Loss of each objective (nats)", objectives[:6], x_label="step"),
        chart("Accuracy", accuracies[:6], x_label="step"),
        chart("Scores", scores[:6], x_label="step"),
        chart("Learning rate", [_line("rate", rows, "learning_rate")], x_label="step", low=0.0),
        chart("Norm of the gradient, before clipping", norms[:6], x_label="step", low=0.0),
        chart("Real tokens per second", [_line("speed", rows, "tokens_per_second")], x_label="step", low=0.0),
        chart("Share of the time waiting for data", [_line("wait", rows, "data_wait")], x_label="step", low=0.0),
    ]
    return section("Curves", f'<div class="charts">{"".join(made)}</div>') if any(made) else ""


def evaluation_section(evaluations: Sequence[dict[str, Any]], scores: Mapping[str, Any] | None) -> str:
    """Return the tables of the evaluations, and of the final scores of a fine-tuning run if it has them."""
    keys = [key for key in _keys(evaluations) if key not in ("event", "max_length")]
    apart = max(1, -(-len(evaluations) // _EVALUATIONS))
    kept = [*evaluations[: len(evaluations) - 1 : apart], *evaluations[-1:]]
    rows = [[cell_text(row.get(key)) for key in keys] for row in kept]
    note = f"{len(kept)} of {len(evaluations)} evaluations; evaluation.jsonl has all." if apart > 1 else ""
    final = facts_list({name: cell_text(value) for name, value in _flat(scores or {}).items()})
    if final:
        final = f"<p class='soft'>scores.json, of the best model:</p>{final}"
    return section("Evaluation", final, table_of(keys, rows, numbers=len(keys)), note=note)


def speed_section(rows: Sequence[dict[str, Any]]) -> str:
    """Return the median and the range of what the log says of the speed."""
    found = []
    for key, name in _SPEED.items():
        values = [float(row[key]) for row in rows if isinstance(row.get(key), int | float)]
        if values:
            found.append([name, *(_speed(key, value) for value in (median(values), min(values), max(values)))])
    seconds = progress_of(rows).seconds[-1]
    note = f"{_duration(seconds)} of training, without evaluations and checkpoints." if seconds else ""
    return section("Speed", table_of(["", "median", "lowest", "highest"], found, numbers=3), note=note)


def settings_section(settings: Mapping[str, Any], changed: Mapping[str, Any]) -> str:
    """Return the settings of a run: those that differ from the defaults, and all of them to unfold."""
    whole = table_of(["setting", "value"], [[name, cell_text(value)] for name, value in settings.items()])
    fold = f"<details><summary>All {len(settings)} settings</summary>{whole}</details>"
    own = table_of(["setting", "value"], [[name, cell_text(value)] for name, value in changed.items()])
    return section("Settings", own, fold, note="These differ from the defaults." if own else "All are the defaults.")


def spikes_section(spikes: Sequence[dict[str, Any]]) -> str:
    """Return the spikes of the loss that a run went back from; an empty string if there are none."""
    keys = ["first_step", "step", "loss", "limit", "back_to"]
    header = ["first step", "last step", "highest loss", "limit", "back to step"]
    rows = [[cell_text(row.get(key)) for key in keys] for row in spikes]
    note = "After each, the run went back to a checkpoint and left out the data of the spike." if rows else ""
    return section("Loss spikes", table_of(header, rows, numbers=5), note=note)


def samples_section(samples: Sequence[FilledSample], *, note: str) -> str:
    """Return texts with the predictions for their masked tokens."""
    return section("Predictions", *(f'<p class="sample">{_sample(one)}</p>' for one in samples), note=note)


def _sample(sample: FilledSample) -> str:
    words = []
    for place, token in enumerate(sample.tokens):
        before = "" if place == 0 or token.startswith("##") else " "
        text = escape(token.removeprefix("##") if place else token)
        if place in sample.predicted:
            stood, predicted, probability = sample.predicted[place]
            kind = "right" if stood == predicted else "wrong"
            instead = "" if stood == predicted else f" for {stood}"
            before = before or " "
            text = f'<span class="{kind}">{escape(f"{predicted} {probability:.0%}{instead}")}</span>'
        words.append(before + text)
    return "".join(words)


def _line(name: str, rows: Sequence[dict[str, Any]], key: str, *, points: bool = False) -> Line:
    there = [row for row in rows if isinstance(row.get(key), int | float)]
    return Line(name=name, x=[row["step"] for row in there], y=[row[key] for row in there], points=points)


def _keys(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _name(key: str) -> str:
    return key.replace("_", " ")


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name} ")
        else:
            found[f"{above}{name}"] = value
    return found


def _speed(key: str, value: float) -> str:
    if key == "peak_memory_bytes":
        return f"{value / 2**30:,.2f} GiB"
    return f"{value:.1%}" if key in ("mfu", "data_wait", "packing_efficiency") else cell_text(value)


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:,.1f} minutes" if seconds >= 90 else f"{seconds:,.0f} seconds"


def object_in(file: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one if there is none."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
