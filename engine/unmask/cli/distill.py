"""`unmask distill general TEACHER --student RECIPE [--group.field value ...]`: a student learns the states of a teacher
on unlabelled text; a pre-training run with another objective.

`unmask distill task TASK TEACHER STUDENT [--group.field value ...]`: it learns the states and the predictions of a
fine-tuned teacher on examples; a fine-tuning run with another objective.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from unmask.cli._arguments import Parser
from unmask.cli._settings import changes_of, settings_parser, with_underscores
from unmask.cli.finetune import finetune_parser, shown_defaults, start_tuning
from unmask.cli.finetune import run as run_finetune
from unmask.cli.pretrain import start_training
from unmask.config import RunConfig, load_config
from unmask.config.load import read_settings
from unmask.config.mappings import defaults
from unmask.errors import UnmaskError
from unmask.paths import as_typed
from unmask.tasks.load import TASKS, distillation_recipe_names

__all__ = ["KINDS", "parsers", "run"]

KINDS = ("general", "task")
"""The two kinds of distillation, each a word of the command."""

_DEFAULT = "tinybert-4"
_USAGE = """usage: unmask distill general TEACHER --student RECIPE --data.store STORE
       unmask distill task TASK TEACHER STUDENT --data.train FILE

A small model, the student, learns from a large one, the teacher (TinyBERT,
Jiao et al. 2020, arXiv:1909.10351).

  general  on unlabelled text: embeddings, layers and attention scores
  task     on the examples of a task: the same, and then the predictions of a
           fine-tuned teacher

unmask distill general --help    the settings of general distillation
unmask distill task --help       the settings of distillation on a task"""
_GENERAL = """A student learns the embeddings, the outputs of layers and the attention scores of a teacher on unlabelled
text. TEACHER is a run, a checkpoint, a Hugging Face folder or ORG/NAME of the Hub. Every setting of a pre-training run
is an option. `unmask pretrain --resume RUN` goes on with a run that stopped."""
_TASK = """A student learns the layers and then the predictions of a fine-tuned teacher on the examples of a task. TASK
is {tasks}, a recipe or a YAML file of settings; STUDENT is a run of `unmask distill general`, or any model to start
from.

Recipes: {recipes}."""


def run(arguments: list[str]) -> None:
    """Start a run of one of the two kinds."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return
    kind, *rest = arguments
    if kind not in KINDS:
        raise UnmaskError(
            f"distill: the first word must be general or task, got {kind!r}; write `unmask distill general TEACHER "
            "--data.store STORE` or `unmask distill task TASK TEACHER STUDENT --data.train FILE`"
        )
    if kind == "general":
        start_training(parse_general(rest))
    else:
        _task(rest)


def parse_general(arguments: list[str]) -> RunConfig:
    """Return the configuration that the words behind `distill general` ask for."""
    parser = _general_parser(_shown(arguments))
    values, words = parser.known([with_underscores(word) for word in arguments])
    student, resumed = values.pop("student", None), values.pop("resume", None)
    if resumed is not None:
        raise UnmaskError(
            "distill: general begins a run and takes no --resume; go on with one that stopped with `unmask pretrain "
            f"--resume {as_typed(resumed)}`"
        )
    if len(words) != 1:
        came = "nothing" if not words else " ".join(words)
        raise UnmaskError(
            f"distill: general takes one model, the teacher, got {came}; write `unmask distill general TEACHER "
            "--student tinybert-4 --data.store STORE`"
        )
    source = student or _DEFAULT
    changes: dict[str, Any] = {"distillation.teacher": words[0], **changes_of(values)}
    if "objective.mlm" not in {**read_settings(source).settings, **changes}:
        # a student learns from its teacher alone unless the loss is asked for by name
        changes["objective.mlm"] = 0.0
    if student is None and changes.get("distillation.student_layers"):
        changes = {**_sizes_of(words[0], len(changes["distillation.student_layers"])), **changes}
    return load_config(source, changes)


def _sizes_of(teacher: str, layers: int) -> dict[str, Any]:
    """Return the settings of `model` for a student that begins with so many layers of a teacher."""
    from unmask.interop.config_json import read_config
    from unmask.interop.find_model import find_model
    from unmask.paths import expanded

    sizes = asdict(read_config(find_model(expanded(teacher)).path)) | {"num_layers": layers}
    return {f"model.{name}": value for name, value in sizes.items()}


def _shown(arguments: list[str]) -> dict[str, Any] | None:
    """Return the settings that the help shows as defaults, if help is asked for."""
    return {**defaults(), **read_settings(_DEFAULT).settings} if {"-h", "--help"} & set(arguments) else None


def _general_parser(values: dict[str, Any] | None = None) -> Parser:
    parser = settings_parser("distill general", _GENERAL, values=values)
    parser.usage = "unmask distill general TEACHER [--student RECIPE|FILE.yaml] [--group.field value ...]"
    parser.add_argument(
        "--student",
        metavar="RECIPE|FILE.yaml",
        help=f"Sizes of the student and settings of the run (default: {_DEFAULT}; with distillation.student_layers, "
        "the teacher's sizes).",
    )
    # it is what continues other runs, so people give it
    parser.add_argument("--resume", metavar="RUN", help=argparse.SUPPRESS)
    return parser


def _task(arguments: list[str]) -> None:
    parser = _task_parser(shown_defaults(arguments, distils=True))
    values, words = parser.known([with_underscores(word) for word in arguments])
    if "resume" in values:
        run_finetune(arguments)
        return
    if len(words) != 3:
        came = "nothing" if not words else " ".join(words)
        raise UnmaskError(
            f"distill: task takes a task, a teacher and a student, got {came}; write `unmask distill task "
            "classification TEACHER STUDENT --data.train FILE`"
        )
    task, teacher, student = words
    start_tuning(task, values, {"model": student, "distillation.teacher": teacher})


def _task_parser(values: dict[str, Any] | None = None) -> Parser:
    parser = finetune_parser(values)
    parser.prog = "unmask distill task"
    parser.usage = "unmask distill task TASK TEACHER STUDENT --data.train FILE [--group.field value ...]"
    parser.description = _TASK.format(tasks=", ".join(TASKS), recipes=", ".join(distillation_recipe_names()))
    return parser


def parsers() -> dict[str, Parser]:
    """Return the parser of each kind."""
    return {"general": _general_parser(), "task": _task_parser()}
