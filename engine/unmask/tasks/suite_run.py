"""A suite of benchmarks: one model on all of them, one after the other, beside what a paper reports.

    unmask finetune glue MODEL --data.folder GLUE --run runs/glue --seeds 5

    GLUE/CoLA/train.tsv, GLUE/SST-2/dev.tsv, ...    the files, in a folder for each benchmark
    runs/glue/suite.yaml                            the settings that all runs share
    runs/glue/cola/seed-1/, ...                     a run, as `unmask finetune` makes one
    runs/glue/table.md                              the table, which is printed too

A benchmark without a folder is not run, and the table says so. The table has scores of the dev file; those of the
papers are of test sets.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unmask.config.yaml_text import dump_yaml, parse_yaml
from unmask.errors import ConfigError, RunError
from unmask.paths import as_typed, nearest_name, replace_text
from unmask.tasks.finetune import SCORES, absolute_settings
from unmask.tasks.load import load_finetune_config
from unmask.tasks.suites import SUITES, SuiteTask
from unmask.tasks.sweep import SWEEP, Sweep, read_sweep, run_sweep
from unmask.train.run_folder import locked_run, new_directory, remove_empty

__all__ = ["SUITE", "SuiteRun", "read_suite", "run_suite"]

SUITE = "suite.yaml"
"""The file that makes a folder the runs of a suite."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteRun:
    """What is run.

    Attributes:
        suite: name of the suite.
        folder: with a folder for each benchmark.
        changes: settings of all runs over the recipes, by dotted name; with `model`.
        run: directory of the runs; None: a new one under runs/.
        seeds: runs of each benchmark.
        values: the values of each setting that varies.
    """

    suite: str
    folder: str
    changes: Mapping[str, Any]
    run: str | None
    seeds: int
    values: Mapping[str, Sequence[Any]]


def run_suite(suite: SuiteRun, *, resume: Path | None = None, show: Callable[[str], None] = print) -> Path:
    """Fine-tune a model on each benchmark that has files, and return the folder of the runs.

    Args:
        suite: what is run.
        resume: the folder of a suite that stopped; finished runs are not made again.
        show: shows a line of the table.
    Raises:
        ConfigError: the folder has no benchmark, or a setting is wrong.
        RunError: the run directory exists already, or is in use.
    """
    found = {task.recipe: _files(Path(suite.folder), task) for task in SUITES[suite.suite].tasks}
    if not any(found.values()):
        wanted = ", ".join(task.folder for task in SUITES[suite.suite].tasks)
        raise ConfigError(
            f"config: --data.folder {suite.folder} has no benchmark of {suite.suite}, each a folder with a training "
            f"and a dev file: {wanted}; give the folder that holds them"
        )
    configs = {
        name: absolute_settings(load_finetune_config(name, {**suite.changes, **files}))
        for name, files in found.items()
        if files
    }
    path, made = (resume, []) if resume is not None else new_directory(suite.run)
    if resume is None and {entry.name for entry in path.iterdir()} - {".lock"}:
        raise RunError(
            f"run directory {path} exists already; continue its runs with `unmask finetune --resume "
            f"{as_typed(path)}` or choose another name with --run"
        )
    with locked_run(path):
        if resume is None:
            content = {
                "suite": suite.suite,
                "folder": str(Path(suite.folder).absolute()),
                "seeds": suite.seeds,
                "values": {name: list(given) for name, given in suite.values.items()},
                "changes": dict(suite.changes) | {"model": next(iter(configs.values())).model},
            }
            replace_text(path / SUITE, dump_yaml(content))
        for number, (name, config) in enumerate(configs.items(), start=1):
            here = path / name
            if (here / SCORES).exists():
                continue
            _log.info(f"benchmark {number} of {len(configs)}: {name}")
            try:
                if (here / SWEEP).exists():
                    run_sweep(read_sweep(here), resume=here, show=_log.info)
                else:
                    own = replace(config, run=str(here))
                    run_sweep(Sweep(config=own, seeds=suite.seeds, values=suite.values), show=_log.info)
            except Exception:
                if made and number == 1 and not here.exists():
                    # a wrong setting or file, before anything was trained: the name is free again
                    shutil.rmtree(path, ignore_errors=True)
                    remove_empty(made[1:])
                raise
            if not (here / SCORES).exists():
                _log.info(f"continue the suite with `unmask finetune --resume {as_typed(path)}`")
                return path
        lines = list(_table(suite, path))
        replace_text(path / "table.md", "\n".join(lines) + "\n")
        for line in lines:
            show(line)
    return path


def read_suite(path: Path) -> SuiteRun:
    """Read which suite a folder holds.

    Raises:
        ConfigError: its file was altered.
    """
    found = parse_yaml((path / SUITE).read_text("utf-8"), source=str(path / SUITE))
    return SuiteRun(**found, run=str(path))


def _files(folder: Path, task: SuiteTask) -> dict[str, str]:
    """Return the files of a benchmark by their settings; none if it is not there.

    Raises:
        ConfigError: there is no such folder, or a pattern fits several files.
    """
    if not folder.is_dir():
        near = nearest_name(folder)
        raise ConfigError(
            f"config: --data.folder {folder} is no folder{f', {near} is there' if near else ''}; give one that holds a "
            "folder for each benchmark"
        )
    own = next(
        (one for one in sorted(folder.iterdir()) if one.is_dir() and _plain(one.name) == _plain(task.folder)), None
    )
    if own is None:
        return {}
    found = {
        f"data.{part}": _matching(own, patterns)
        for part, patterns in (("train", task.train), ("dev", task.dev), ("test", task.test))
    }
    missing = [name for name in ("data.train", "data.dev") if found[name] is None]
    if missing:
        _log.warning(f"{own} has no file for {' and '.join(missing)}; {task.recipe} is not run")
        return {}
    return {name: str(file) for name, file in found.items() if file is not None}


def _matching(folder: Path, patterns: Sequence[str]) -> Path | None:
    for pattern in patterns:
        found = sorted(one for one in folder.glob(pattern) if one.is_file())
        if len(found) > 1:
            raise ConfigError(
                f"config: --data.folder has several files {pattern} in {folder}: "
                f"{', '.join(one.name for one in found)}; leave one there"
            )
        if found:
            return found[0]
    return None


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _table(suite: SuiteRun, path: Path) -> Iterator[str]:
    """Yield the lines of the table."""
    tasks = SUITES[suite.suite].tasks
    means = []
    yield f"| benchmark | score | {suite.changes['model']}, dev | {SUITES[suite.suite].paper} |"
    yield "|---|---|---|---|"
    for task in tasks:
        scores = path / task.recipe / SCORES
        shown = "not run"
        if scores.exists():
            summary = json.loads(scores.read_text("utf-8"))
            row = summary["runs"][summary["best"] or next(iter(summary["runs"]))]
            means.append(row["dev"][task.score]["mean"])
            parts = [row[part][task.score] for part in ("dev", "test") if task.score in row[part]]
            shown = " / ".join(
                f"{one['mean']:.1f}" + ("" if one["deviation"] is None else f" ± {one['deviation']:.1f}")
                for one in parts
            )
        yield f"| {task.recipe} | {task.score} | {shown} | {task.reported or ''} |"
    if len(means) > 1:
        yield f"| mean of {len(means)} | | {sum(means) / len(means):.1f} | |"
