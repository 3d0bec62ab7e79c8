"""Several runs of one task: with several seeds, with several values of a setting, or both.

    unmask finetune rte MODEL ... --seeds 5                                   5 runs, mean, deviation and maximum
    unmask finetune rte MODEL ... --sweep learning_rate=2e-5,3e-5,5e-5        3 runs, and which value is best
    both                                                                      15 runs

    runs/rte/sweep.yaml                            the settings, the seeds and the values
    runs/rte/learning_rate-2e-05/seed-1/           a run, as `unmask finetune` makes one
    runs/rte/scores.json                           mean, standard deviation and maximum of each score

The seeds are those of the settings and the ones after it. Scores are those of the dev file, or of the test file if
there is one. The value with the best mean on the dev file is the best; the deviation is that of a sample (n - 1).
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unmask.config.mappings import settings_of
from unmask.config.yaml_text import dump_yaml, parse_yaml
from unmask.errors import ConfigError, RunError
from unmask.folders import FINETUNE
from unmask.paths import as_typed, replace_text
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.finetune import SCORES, absolute_settings, finetune
from unmask.tasks.load import load_finetune_config, nearest_task_setting
from unmask.tasks.tasks import task_of
from unmask.train.run_folder import locked_run, new_directory, remove_empty

__all__ = ["SWEEP", "Sweep", "read_sweep", "run_sweep"]

SWEEP = "sweep.yaml"
"""The file that makes a folder one of several runs."""

_log = logging.getLogger(__name__)
_GROUPS = ("optimizer", "train", "input", "head", "answers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Which runs are made.

    Attributes:
        config: settings of all runs; the seed is the first one.
        seeds: runs with each combination of values.
        values: the values of each setting that varies, by its dotted name.
    """

    config: FinetuneConfig
    seeds: int
    values: Mapping[str, Sequence[Any]]

    def runs(self) -> Iterator[tuple[str, dict[str, Any], int]]:
        """Yield the folder, the settings that vary and the seed of each run."""
        for combination in itertools.product(*self.values.values()):
            changes = dict(zip(self.values, combination, strict=True))
            folder = self.folder(changes)
            for seed in range(self.config.seed, self.config.seed + self.seeds):
                yield f"{folder}/seed-{seed}" if folder else f"seed-{seed}", changes, seed

    def folder(self, changes: Mapping[str, Any]) -> str:
        """Return the name of the folder of the runs with these values; empty if nothing varies but the seed."""
        return "_".join(f"{name.rpartition('.')[2]}-{value}" for name, value in changes.items())


def read_values(given: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each setting in words such as `learning_rate=2e-5,3e-5`, as text.

    Raises:
        ConfigError: a word has another form, or names no setting.
    """
    known = settings_of(FinetuneConfig)
    found: dict[str, list[str]] = {}
    for word in given:
        name, equals, values = word.partition("=")
        if not equals or not values.strip(","):
            raise ConfigError(
                f"config: --sweep takes a setting and its values, got {word!r}; write it as learning_rate=2e-5,3e-5"
            )
        whole = next((f"{group}.{name}" for group in _GROUPS if f"{group}.{name}" in known), name)
        if whole not in known or whole == "seed":
            nearest = nearest_task_setting(name)
            way = f"did you mean {nearest}?" if nearest else "write the name of a setting, as optimizer.learning_rate"
            raise ConfigError(f"config: --sweep names {name!r}, which is no setting to vary; {way}")
        found[whole] = [value for value in values.split(",") if value]
    return found


def run_sweep(sweep: Sweep, *, resume: Path | None = None, show: Callable[[str], None] = print) -> Path:
    """Make all runs, one after the other, and return their folder.

    Args:
        sweep: which runs.
        resume: the folder of runs that stopped; finished ones are not made again.
        show: shows a line of the table of scores.
    Raises:
        RunError: the folder exists already, or is in use.
        ConfigError: a value is wrong.
    """
    runs = [(folder, _with(sweep.config, changes, seed), changes) for folder, changes, seed in sweep.runs()]
    made: list[Path] = []
    if resume is None:
        path, made = new_directory(sweep.config.run)
        if {entry.name for entry in path.iterdir()} - {".lock"}:
            raise RunError(
                f"run directory {path} exists already; continue its runs with `unmask finetune --resume "
                f"{as_typed(path)}` or choose another name with --run"
            )
    else:
        path = resume
    with locked_run(path):
        if resume is None:
            config = asdict(absolute_settings(sweep.config)) | {"run": str(path)}
            values = {name: list(given) for name, given in sweep.values.items()}
            replace_text(path / SWEEP, dump_yaml({"seeds": sweep.seeds, "values": values, "settings": config}))
        for number, (folder, config_of_run, _) in enumerate(runs, start=1):
            here = path / folder
            if (here / SCORES).exists():
                continue
            _log.info(f"run {number} of {len(runs)}: {here}")
            try:
                _one_run(here, config_of_run)
            except Exception:
                if made and number == 1 and not here.exists():
                    # a wrong setting or file, before anything was trained: the name is free again
                    shutil.rmtree(path, ignore_errors=True)
                    remove_empty(made[1:])
                raise
            if not (here / SCORES).exists():
                _log.info(f"continue with `unmask finetune --resume {as_typed(path)}`")
                return path
        summary = _summary(sweep, path)
        replace_text(path / SCORES, json.dumps(summary, indent=2) + "\n")
        for line in _table(summary):
            show(line)
    return path


def _one_run(here: Path, config: FinetuneConfig) -> None:
    """Make a run, or go on with it."""
    if (here / FINETUNE).exists():
        finetune(resume=here)
    else:
        here.parent.mkdir(parents=True, exist_ok=True)
        finetune(replace(config, run=str(here)))


def read_sweep(path: Path) -> Sweep:
    """Read which runs a folder holds.

    Raises:
        ConfigError: its file was altered.
    """
    found = parse_yaml((path / SWEEP).read_text("utf-8"), source=str(path / SWEEP))
    settings = {name: value for name, value in found["settings"].items() if name != "task"}
    config = load_finetune_config(found["settings"]["task"], settings, saved=True)
    return Sweep(config=config, seeds=int(found["seeds"]), values=found["values"])


def _with(config: FinetuneConfig, changes: Mapping[str, Any], seed: int) -> FinetuneConfig:
    for name, value in changes.items():
        group, _, last = name.rpartition(".")
        change = {last: value}
        config = replace(config, **({group: replace(getattr(config, group), **change)} if group else change))
    return replace(config, seed=seed)


def _summary(sweep: Sweep, path: Path) -> dict[str, Any]:
    """Return mean, deviation and maximum of each score for each combination of values."""
    found: dict[str, dict[str, Any]] = {}
    for folder, changes, seed in sweep.runs():
        scores = json.loads((path / folder / SCORES).read_text("utf-8"))
        name = sweep.folder(changes) or "all seeds"
        row = found.setdefault(name, {"settings": changes, "seeds": [], "dev": {}, "test": {}})
        row["seeds"].append(seed)
        row["metric"] = scores["metric"]
        for part in ("dev", "test"):
            for score, value in scores.get(part, {}).items():
                row[part].setdefault(score, []).append(value)
    for row in found.values():
        for part in ("dev", "test"):
            row[part] = {score: _statistics(values) for score, values in row[part].items()}
    metric = next(iter(found.values()))["metric"]
    scored = {name: row["dev"][metric]["mean"] for name, row in found.items() if metric in row["dev"]}
    low = task_of(sweep.config, ()).best_is_low if sweep.config.task != "qa" else False
    best = (min if low else max)(scored, key=scored.__getitem__) if scored else None
    return {"metric": metric, "best": best, "runs": found}


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return {
        "mean": statistics.fmean(values),
        "deviation": None if math.isnan(deviation) else deviation,
        "max": max(values),
        "values": list(values),
    }


def _table(summary: Mapping[str, Any]) -> Iterator[str]:
    for name, row in summary["runs"].items():
        mark = "  (best)" if name == summary["best"] and len(summary["runs"]) > 1 else ""
        for part in ("dev", "test"):
            shown = [
                f"{score} {one['mean']:.4f}"
                + ("" if one["deviation"] is None else f" ± {one['deviation']:.4f}, max {one['max']:.4f}")
                for score, one in row[part].items()
            ]
            if shown:
                yield f"{name}, {part}, {len(row['seeds'])} seeds: {'; '.join(shown)}{mark if part == 'dev' else ''}"
