"""`unmask finetune TASK MODEL [--group.field value ...]`, the same of a suite, and `unmask finetune --resume RUN`.

Precedence: defaults < recipe or YAML < command line. A resumed run keeps its settings.
"""

import argparse
import inspect
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from unmask.cli._arguments import Parser, add_option, complete_files, value_of
from unmask.cli._settings import with_underscores
from unmask.config.mappings import settings_of
from unmask.config.settings import hints_of
from unmask.errors import ConfigError, UnmaskError
from unmask.paths import expanded
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.load import (
    TASKS,
    load_finetune_config,
    nearest_task_setting,
    read_task_settings,
    task_recipe_names,
)
from unmask.tasks.suites import SUITES

__all__ = ["finetune_parser", "run", "shown_defaults", "start_tuning"]

_DESCRIPTION = """Fine-tune a model on a task, with one output layer on the encoder. TASK is {tasks}, a recipe or a YAML
file of settings; MODEL is a run, a checkpoint, a folder that transformers loads, or ORG/NAME of the Hugging Face Hub.

Recipes: {recipes}.

Suites, each a table of several benchmarks: {suites}; they need --data.folder."""
_WORDS = ("task", "model")


def run(arguments: list[str]) -> None:
    """Start a run or resume one."""
    values, words = finetune_parser(shown_defaults(arguments)).known([with_underscores(word) for word in arguments])
    resume = values.pop("resume", None)
    if resume is not None:
        stray = [*words, *(f"--{name}" for name in values)]
        if stray:
            raise ConfigError(f"config: --resume {resume} keeps the saved settings; leave {stray[0]!r} out")
        _resume(Path(expanded(resume)))
        return
    if len(words) != 2:
        came = "nothing" if not words else " ".join(words)
        raise UnmaskError(
            f"finetune: needs a task and a model, got {came}; write `unmask finetune classification MODEL --data.train "
            "FILE`"
        )
    start_tuning(words[0], values, {"model": words[1]})


def shown_defaults(arguments: list[str], *, distils: bool = False) -> dict[str, Any]:
    """Return the settings of the task that the help shows as defaults, if help is asked for."""
    first = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if first is None or first in SUITES or not {"-h", "--help"} & set(arguments):
        return {}
    return read_task_settings(first, distils=distils, others=SUITES)


def start_tuning(task: str, values: dict[str, Any], more: dict[str, Any]) -> None:
    """Start the run, or the runs, that words of a command line ask for.

    Args:
        task: a task, a recipe, a suite or a YAML file.
        values: the words of each option.
        more: settings that have no option here.
    """
    seeds, sweep, folder = (values.pop(name, None) for name in ("seeds", "sweep", "data.folder"))
    known = settings_of(FinetuneConfig)
    changes: dict[str, Any] = {}
    for name, text in values.items():
        try:
            changes[name] = value_of(known[name][1], text)
        except UnmaskError as error:
            raise ConfigError(f"config: {name}: {error}") from None
    if task in SUITES:
        _run_suite(task, folder, {**changes, **more}, seeds, sweep or [])
        return
    # a misspelt suite is no task that lacks a file
    read_task_settings(task, distils="distillation.teacher" in more, others=SUITES)
    if folder is not None:
        raise ConfigError(
            f"config: --data.folder is for a suite ({', '.join(SUITES)}), and {task} is none; give --data.train FILE"
        )
    config = load_finetune_config(task, {**changes, **more})
    if seeds is not None or sweep is not None:
        _run_several(config, seeds, sweep or [])
        return
    from unmask.tasks.finetune import finetune

    finetune(config)


def _resume(path: Path) -> None:
    from unmask.tasks.finetune import finetune
    from unmask.tasks.suite_run import SUITE, read_suite, run_suite
    from unmask.tasks.sweep import SWEEP, read_sweep, run_sweep

    if (path / SUITE).is_file():
        run_suite(read_suite(path), resume=path)
    elif (path / SWEEP).is_file():
        run_sweep(read_sweep(path), resume=path)
    else:
        finetune(resume=path)


def _run_several(config: FinetuneConfig, seeds: str | None, sweep: list[str]) -> None:
    from unmask.tasks.sweep import Sweep, run_sweep

    run_sweep(Sweep(config=config, seeds=_count(seeds), values=_values(sweep)))


def _run_suite(name: str, folder: str | None, changes: dict[str, Any], seeds: str | None, sweep: list[str]) -> None:
    if folder is None:
        raise ConfigError(
            f"config: the suite {name} needs the folder that holds its benchmarks; give it as --data.folder FOLDER"
        )
    own = [one for one in changes if one.startswith("data.") and one != "data.train_examples"]
    if own:
        raise ConfigError(
            f"config: --{own[0]} is of one task, and {name} has several; leave it out, or fine-tune on one task"
        )
    from unmask.tasks.suite_run import SuiteRun, run_suite

    run = changes.pop("run", None)
    suite = SuiteRun(
        suite=name,
        folder=expanded(folder),
        changes=changes,
        run=None if run is None else expanded(run),
        seeds=_count(seeds),
        values=_values(sweep),
    )
    run_suite(suite)


def _count(seeds: str | None) -> int:
    count = value_of(int, seeds or "1")
    if not isinstance(count, int) or count < 1:
        raise ConfigError(f"config: --seeds must be a whole number from 1, got {seeds!r}; write --seeds 5")
    return count


def _values(sweep: list[str]) -> dict[str, list[Any]]:
    from unmask.tasks.sweep import read_values

    hints = settings_of(FinetuneConfig)
    return {name: [value_of(hints[name][1], one) for one in given] for name, given in read_values(sweep).items()}


def finetune_parser(values: dict[str, Any] | None = None) -> Parser:
    """Return the parser; its help shows `values` as the defaults."""
    parser = _TaskParser(
        prog="unmask finetune",
        usage="unmask finetune TASK MODEL --data.train FILE [--group.field value ...]\n       unmask finetune "
        "--resume RUN",
        description=_DESCRIPTION.format(
            tasks=", ".join(TASKS), recipes=", ".join(task_recipe_names()) or "none", suites=", ".join(SUITES)
        ),
    )
    complete_files(
        parser.add_argument(
            "--resume", metavar="RUN", help="Go on with a run that stopped, from its newest whole checkpoint."
        )
    )
    parser.add_argument(
        "--seeds", metavar="N", help="Make N runs with seeds from --seed on, and tell mean, deviation and maximum."
    )
    parser.add_argument(
        "--sweep",
        metavar="SETTING=A,B",
        nargs="+",
        action="extend",
        help="Make a run with each of these values, as in learning_rate=2e-5,3e-5,5e-5.",
    )
    complete_files(
        parser.add_argument(
            "--data.folder", metavar="FOLDER", help="Of a suite: it holds a folder for each benchmark, such as SST-2."
        )
    )
    hints, config = hints_of(FinetuneConfig), FinetuneConfig()
    sections: dict[str, argparse._ArgumentGroup] = {}
    for name, (field, hint) in settings_of(FinetuneConfig).items():
        if name in _WORDS:
            continue
        group, _, last = name.rpartition(".")
        if group not in sections:
            about = inspect.getdoc(hints[group]) if group and is_dataclass(hints[group]) else ""
            sections[group] = parser.add_argument_group(group or "run", (about or "").split("\n\n")[0])
        default = (values or {}).get(name, getattr(getattr(config, group) if group else config, last))
        add_option(sections[group], [f"--{name}"], name, hint, field, default=default)
    return parser


class _TaskParser(Parser):
    def advice_for(self, word: str) -> str:
        nearest = nearest_task_setting(word.lstrip("-"))
        return super().advice_for(word) if nearest is None else f"did you mean --{nearest}?"
