"""What a task is to the loop of fine-tuning: how its files are read, what the model reads, and what its outputs mean.

examples    = task.read(file)
inputs      = task.inputs(examples, tokenizer)
predictions = task.predictions(outputs, inputs, examples)
scores      = task.scores(predictions, examples)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from unmask.config.head import HeadConfig
from unmask.data.tokenizer import Tokenizer
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.inputs import ModelInputs
from unmask.tasks.outputs import Outputs
from unmask.tasks.scores.scoring import Scores

__all__ = ["Task", "head_of"]


class Task(Protocol):
    """A task with its settings and its labels.

    Attributes:
        labels: names of its classes or tags; empty for a regression and for question answering.
        metric: the score by which the best checkpoint is chosen, unless the settings name another one.
        score_names: the scores that `scores` returns.
        best_is_low: whether a lower metric is better.
    """

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def metric(self) -> str: ...

    @property
    def score_names(self) -> tuple[str, ...]: ...

    @property
    def best_is_low(self) -> bool: ...

    @classmethod
    def from_training_file(cls, config: FinetuneConfig, known: Sequence[str] | None) -> tuple[Task, list[Any]]:
        """Return the task and the examples of its training file.

        Args:
            config: settings of the run.
            known: labels that the model has; they count if they hold all labels of the file.
        """

    def read(self, path: Path) -> list[Any]:
        """Return the examples of a file, whose labels may be missing."""

    def inputs(self, examples: Sequence[Any], tokenizer: Tokenizer) -> ModelInputs:
        """Return what the model reads of examples; with targets if all examples have labels."""

    def has_labels(self, examples: Sequence[Any]) -> bool:
        """Return whether there is something to score: examples with labels."""

    def predictions(self, outputs: Outputs, inputs: ModelInputs, examples: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the prediction for each example, as `unmask predict` writes it."""

    def scores(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Any], *, resamples: int = 0
    ) -> Scores:
        """Return the scores of predictions for examples with labels; with `resamples`, their intervals too."""


def head_of(task: Task, config: FinetuneConfig, hidden_dropout: float) -> HeadConfig:
    """Return the output layer of a task."""
    dropout = config.head.dropout
    return HeadConfig(task=config.task, labels=task.labels, dropout=hidden_dropout if dropout is None else dropout)
