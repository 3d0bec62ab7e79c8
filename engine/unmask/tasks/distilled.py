"""Distillation on the examples of a task: what a fine-tuning run learns from its teacher (arXiv:1909.10351).

In the stage `intermediate` it learns the states of layers, by the objectives of `unmask.distillation`. In the stage
`prediction` it learns the outputs z of the teacher's output layer, at a temperature t:

    classification, entities   cross-entropy of softmax(z_S / t) under softmax(z_T / t)   mean over texts or words
    qa                         the same over the tokens of a text, (first + last) / 2     mean over texts
    multi_label                binary cross-entropy of z_S / t under sigmoid(z_T / t)     mean over texts and classes
    regression                 (z_S - z_T)^2; or the loss of the labels, by name          mean over texts

The accuracy of a prediction is how often the student's first choice is the teacher's. Labels of the training file give
the classes; the student learns none of them.

Shapes: R rows that the output layer reads, K outputs, S documents, L tokens of the longest document.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.batch import PackedBatch
from unmask.data.tokenizer import Tokenizer
from unmask.distillation.objectives import learn_states
from unmask.distillation.teacher import Teacher, TeacherFolder
from unmask.errors import CheckpointError, ConfigError
from unmask.model.task_model import TaskModel
from unmask.objectives import Objective, Tally
from unmask.paths import as_typed
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.objectives import by_document, task_objective
from unmask.train.distilled import open_teacher
from unmask_kernels import soft_cross_entropy

__all__ = ["INTERMEDIATE", "TaskTeacher", "of_layers"]

INTERMEDIATE = "intermediate"
"""The folder, in that of a run, of the run that learns the layers."""

# far below any logit, and finite: 0 times it is 0
_NOWHERE = -1e9


def of_layers(config: FinetuneConfig, run: Path) -> FinetuneConfig:
    """Return the settings of the run in the folder `run` that learns the layers, of a run of both stages."""
    distillation = config.distillation
    return replace(
        config,
        run=str(run),
        data=replace(config.data, dev=None, test=None),
        optimizer=replace(config.optimizer, learning_rate=distillation.intermediate_learning_rate, warmup_share=0.0),
        train=replace(
            config.train,
            epochs=distillation.intermediate_epochs,
            batch_size=distillation.intermediate_batch_size,
            metric=None,
            patience=None,
        ),
        distillation=replace(distillation, stage="intermediate"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskTeacher:
    """The fine-tuned teacher of a run.

    Attributes:
        config: settings of the run.
        folder: where the teacher is.
        teacher: the teacher itself.
    """

    config: FinetuneConfig
    folder: TeacherFolder
    teacher: Teacher

    @classmethod
    def open(cls, config: FinetuneConfig, run: Path, *, dtype: torch.dtype, device: torch.device) -> TaskTeacher:
        """Open the teacher that the settings name.

        Raises:
            CheckpointError: it has no output layer for the task, is another model than the one that the run began with,
                or cannot be read.
            TokenizerError: it has no tokenizer, or not that of its model.
            ConfigError: it cannot read sequences as long as those of the run.
        """
        given = config.distillation.teacher
        assert given is not None
        folder = open_teacher(given, run)
        length, positions = config.input.max_length, folder.sizes.max_positions
        if length > positions:
            raise ConfigError(
                f"config: input.max_length is {length} but the teacher {given} has {positions} positions; give "
                f"--input.max_length {positions}"
            )
        return cls(config=config, folder=folder, teacher=folder.task_model(config.task, dtype=dtype, device=device))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the teacher's outputs."""
        assert isinstance(self.teacher.model, TaskModel)
        return self.teacher.model.head.labels

    def require_labels(self, labels: tuple[str, ...]) -> None:
        """Check that the teacher's outputs are the classes of the run, in their order.

        Raises:
            CheckpointError: they are others.
        """
        if labels == self.labels:
            return
        begin = (
            f"distillation.teacher: {self.folder.given} has the labels {', '.join(self.labels)}, in this order, and "
            f"the run has {', '.join(labels)}"
        )
        if set(labels) == set(self.labels):
            raise CheckpointError(f"{begin}; leave data.labels out, to take the teacher's order")
        raise CheckpointError(
            f"{begin}; give a training file with the teacher's labels, or write the names of its classes as id2label "
            "into its config.json if they are called otherwise there"
        )

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Check that the student reads the ids that the teacher reads.

        Raises:
            TokenizerError: it has another tokenizer.
        """
        general = f"`unmask distill general {as_typed(self.folder.given)} --data.input TEXT` makes"
        self.folder.require_tokenizer(
            tokenizer, self.config.model, way=f"take a student with the teacher's tokenizer, as {general} one"
        )

    def objectives(self, student: TaskModel) -> list[tuple[Objective, float]]:
        """Return what the student learns in the stage of the run, with weights; for the layers it gets projections.

        Raises:
            ConfigError: layers or heads of the two cannot be compared.
        """
        config = self.config
        if config.distillation.stage == "intermediate":
            return learn_states(student, self.teacher, config.distillation, seed=config.seed)
        if config.task == "regression" and config.distillation.regression_targets == "labels":
            return [(task_objective("regression"), 1.0)]
        return [(_Prediction(self.teacher, config), 1.0)]


class _Prediction:
    """The predictions of the teacher, as the student learns them."""

    name: ClassVar[str] = "prediction"
    heads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, teacher: Teacher, config: FinetuneConfig) -> None:
        self._teacher, self._task = teacher, config.task
        self._temperature = config.distillation.temperature
        self._rows = task_objective(config.task).rows

    def count(self, batch: PackedBatch) -> Tensor:
        """Return the number of predictions, () int64."""
        rows = batch.masked if self._task == "entities" else None
        count = batch.real_documents if rows is None else len(rows)
        if self._task == "multi_label":
            assert isinstance(self._teacher.model, TaskModel)
            count *= self._teacher.model.head.outputs
        return torch.tensor(count, device=batch.ids.device)

    def rows(self, batch: PackedBatch) -> Tensor | None:
        """Return the rows that the output layer reads."""
        return self._rows(batch)

    def __call__(self, model: Any, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Compare the outputs of the two models."""
        ours = model.logits(hidden, batch, self.rows(batch)).float()
        theirs = self._teacher.logits(batch)
        loss, correct = self._compare(ours, theirs, batch)
        return Tally(loss, self.count(batch), correct)

    def _compare(self, ours: Tensor, theirs: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        if self._task == "regression":
            return F.mse_loss(ours, theirs, reduction="sum"), torch.zeros((), dtype=torch.int64, device=ours.device)
        if self._task == "multi_label":
            targets = (theirs / self._temperature).sigmoid()
            loss = F.binary_cross_entropy_with_logits(ours / self._temperature, targets, reduction="sum")
            return loss, ((ours > 0) == (theirs > 0)).sum()
        if self._task == "qa":
            # (S, L, 2) to (2 S, L): the first tokens, then the last ones
            ours, theirs = (
                by_document(one, batch).clamp(min=_NOWHERE).permute(2, 0, 1).flatten(0, 1) for one in (ours, theirs)
            )
        loss = soft_cross_entropy(
            ours, theirs, temperature=self._temperature, weights=torch.ones(len(ours), device=ours.device)
        )
        same = ours.argmax(-1) == theirs.argmax(-1)
        return (loss / 2, same.view(2, -1).all(0).sum()) if self._task == "qa" else (loss, same.sum())
