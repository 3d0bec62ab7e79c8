"""Writes bench/results/<machine>/*.json: benchmarks of our own timing, and training runs.

Two kinds of file: what pytest-benchmark writes too, `<date>-<commit>[-name].json`, and training runs,
`run-<name>.json`. Both say on which machine, with which versions and from which commit. Of a benchmark's `extra_info`
the page reads

    case, variant     what was timed
    baseline          the variant that ratios are taken against, in the same race of the same run
    tokens            real tokens of one call, gives tokens/s (or tokens_per_second itself)
    flops             useful operations of one call, without padding, gives TFLOP/s
    floor_seconds     time that the roofline allows, gives the share of the ceiling; `ceiling` says which one
    peak_bytes        memory of one call
    note              a sentence below the table
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"

__all__ = ["RESULTS", "automatic", "document", "entry", "save", "training_run"]


def entry(group: str, variant: str, seconds: Sequence[float], *, case: str, **extra: object) -> dict[str, Any]:
    """One benchmark as pytest-benchmark writes it, from durations of our own."""
    ordered = sorted(seconds)
    first, _, third = statistics.quantiles(ordered, method="inclusive") if len(ordered) > 1 else ordered * 3
    stats = {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": statistics.fmean(ordered),
        "median": statistics.median(ordered),
        "q1": first,
        "q3": third,
        "iqr": third - first,
        "rounds": len(ordered),
        "iterations": 1,
        "data": list(seconds),
    }
    info = {"case": case, "variant": variant, **extra}
    return {"group": group, "name": f"{group}[{case}-{variant}]", "extra_info": info, "stats": stats}


def document(benchmarks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A result file for these benchmarks, with the facts of this machine."""
    return {**_stamp(), "benchmarks": list(benchmarks)}


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def automatic(name: str) -> Path:
    """Where a result file of this machine, day and commit lies."""
    from bench import machine

    return RESULTS / machine.name() / f"{date.today().isoformat()}-{machine.commit()['id'][:10]}-{name}.json"


def training_run(run: Path, name: str) -> dict[str, Any]:
    """A training run as a result: settings and curve from its `config.yaml`, `log.jsonl` and `evaluation.jsonl`.

    Commit, machine and threads are those of the recording: record where and with what the run trained.
    """
    import yaml

    files = [file for file in (run / "log.jsonl", run / "evaluation.jsonl") if file.exists()]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]
    return {
        **_stamp(),
        "run": name,
        "settings": _without_folders(yaml.safe_load((run / "config.yaml").read_text())),
        "curve": [row for row in rows if "loss" in row and "event" not in row],
        "evaluations": [row for row in rows if row.get("event") == "evaluate"],
    }


def _without_folders(value: Any) -> Any:
    """Settings with only the last part of absolute paths, also of `name=path` and `hf://path:split`: where a folder lay
    explains no number.
    """
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return re.sub(r"^(.*?=)?(?:hf://)?/(?:.*/)?", r"\1", value) if isinstance(value, str) else value


def _stamp() -> dict[str, Any]:
    from bench import machine

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"datetime": now, "machine_info": machine.facts(), "commit_info": machine.commit()}
