"""Write result files into bench/results/<machine>: benchmarks and training runs.

Benchmarks are in files `<date>-<commit>[-name].json`, in the format of pytest-benchmark; training runs in files
`run-<name>.json`; curves of learning beside `transformers` in files `learning-<corpus>.json` (`learning_page.py`);
fine-tuning beside it in files `finetune-<recipe>.json` (`finetune_page.py`). Any file may have rows of the table of
reliability (`reliability_page.py`). All say which machine, versions and commit were measured. `report.py` reads these
names of a benchmark's `extra_info`; `pairs.py` has more of them:

    case, variant     what was timed
    baseline          the variant that ratios are relative to, timed in the same rounds
    tokens            tokens of one call without padding, for tokens/s; or tokens_per_second itself
    flops             operations of one call without padding, for TFLOP/s
    floor_seconds     the time that the roofline allows, for the share of the ceiling
    ceiling           which ceiling that is
    peak_bytes        peak memory of one call
    dtype, attention  of the activations, and what computes attention, shown after the variant
    trials            how other settings of a variant did beside the one that was chosen because it is the fastest
    note              a sentence below the table
"""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"

__all__ = [
    "RESULTS",
    "benchmark_entry",
    "benchmark_file",
    "flush",
    "now",
    "result_path",
    "run_file",
    "save",
    "stamp",
    "without_folders",
]


def benchmark_entry(
    group: str, variant: str, seconds: Sequence[float], *, case: str, **extra: object
) -> dict[str, Any]:
    """Make the entry that pytest-benchmark writes for one benchmark, from durations of our own."""
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


def benchmark_file(benchmarks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make the content of a result file of these benchmarks, with the facts of this machine."""
    return {**stamp(), "benchmarks": list(benchmarks)}


def flush(benchmarks: Iterable[Mapping[str, Any]]) -> None:
    """Append entries to the file that the variable RESULT_LINES names, if there is one: a line each.

    What was measured is then kept even if the bench is killed.
    """
    if path := os.environ.get("RESULT_LINES"):
        with Path(path).open("a") as file:
            file.writelines(f"{json.dumps(entry)}\n" for entry in benchmarks)


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def result_path(name: str) -> Path:
    """Return the path of a result file of this machine, day and commit."""
    from bench import machine

    return RESULTS / machine.name() / f"{date.today().isoformat()}-{machine.commit()['id'][:10]}-{name}.json"


def run_file(run: Path, name: str) -> dict[str, Any]:
    """Make the content of a result file of a training run, from its `config.yaml`, `log.jsonl` and `evaluation.jsonl`.

    Commit, machine and threads are those of this process: call it on the machine and commit that trained the run.
    """
    from unmask.config.yaml_text import parse_yaml

    files = [file for file in (run / "log.jsonl", run / "evaluation.jsonl") if file.exists()]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]
    return {
        **stamp(),
        "run": name,
        "settings": without_folders(parse_yaml((run / "config.yaml").read_text(), source="config.yaml")),
        "curve": [row for row in rows if "loss" in row and "event" not in row],
        "evaluations": [row for row in rows if row.get("event") == "evaluate"],
    }


def without_folders(value: Any) -> Any:
    """Shorten absolute paths in settings to their last part, also in `name=path` and `hf://path:split`."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return re.sub(r"^(.*?=)?(?:hf://)?/(?:.*/)?", r"\1", value) if isinstance(value, str) else value


def now() -> str:
    """Return the time, as result files have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def stamp() -> dict[str, Any]:
    """Return time, machine and commit, as result files have them."""
    from bench import machine

    return {"datetime": now(), "machine_info": machine.facts(), "commit_info": machine.commit()}
