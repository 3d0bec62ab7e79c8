"""The task of a run, by the name that the settings give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unmask.tasks.answer_task import AnswerTask
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.task import Task
from unmask.tasks.text_task import TextTask
from unmask.tasks.word_task import WordTask

__all__ = ["open_training_file", "task_of"]

_TASKS: dict[str, type[Any]] = {
    "classification": TextTask,
    "multi_label": TextTask,
    "regression": TextTask,
    "entities": WordTask,
    "qa": AnswerTask,
}


def task_of(config: FinetuneConfig, labels: Sequence[str]) -> Task:
    """Return the task of a model with these labels."""
    made: Task = _TASKS[config.task](config=config, labels=tuple(labels))
    return made


def open_training_file(config: FinetuneConfig, known: Sequence[str] | None) -> tuple[Task, list[Any]]:
    """Return the task and the examples of its training file; see `Task.from_training_file`.

    Raises:
        CorpusError: the file cannot be read as the settings say.
        ConfigError: the settings name a layout that there is not.
    """
    made: tuple[Task, list[Any]] = _TASKS[config.task].from_training_file(config, known)
    return made
