"""What training changes: the weights and what belongs to them, and the counters of a run.

    an update        the optimizer changes weights and moments, `count` the counters
    a checkpoint     `tensors` and the counters; `load` takes them over again
    an evaluation    `scored_model`: the moving average of the weights if the run keeps one, else the weights

With several ranks all of this is equal on every rank: they begin with the state of rank 0, and each update is the same.
With `train.parallel` fsdp each rank holds a part of every weight, and `tensors` gathers one after the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unmask.batch import Cursor
from unmask.distillation.student import Student
from unmask.model import PretrainingModel
from unmask.train.checkpoint.state import (
    Facts,
    export_of,
    load_tensors,
    read_tensors,
    send_state,
    state_of,
)
from unmask.train.loss_scale import LossScale
from unmask.train.parallel import ALONE, Ranks
from unmask.train.sharded import gathered, scatter_state
from unmask.train.step import StepReport
from unmask.train.weight_average import WeightAverage

__all__ = ["TrainingState"]


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """The state of a run on one rank.

    Attributes:
        model: the encoder with its heads, on the device to train on.
        optimizer: its optimizer, with the moments.
        average: the moving average of the weights; None without `optimizer.ema_decay`.
        loss_scale: what the loss is multiplied by in fp16; None for other dtypes.
        ranks: the processes that train together.
        is_sharded: whether each rank holds a part of the model.
        done: updates so far, skipped ones included.
        tokens: real tokens so far.
        cursor: cursor of the last micro-batch that this rank used.
        skipped: updates that were left out, () fp32 on the device.
        skipped_in_a_row: those since the last update that was made, () fp32 on the device.
        blank: a copy of the model without values, for what is exported.
    """

    model: PretrainingModel | Student
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None = None
    loss_scale: LossScale | None = None
    ranks: Ranks = ALONE
    is_sharded: bool = False
    blank: PretrainingModel | Student
    done: int = 0
    tokens: int = 0
    cursor: Cursor | None = None
    skipped: Tensor = field(init=False)
    skipped_in_a_row: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.skipped = torch.zeros((), device=self.device)
        self.skipped_in_a_row = torch.zeros((), device=self.device)

    @property
    def device(self) -> torch.device:
        """The device that trains."""
        return next(self.model.parameters()).device

    def count(self, report: StepReport, *, tokens: int, cursor: Cursor | None) -> None:
        """Count a finished step, with the real tokens of all ranks; device values stay on the device."""
        self.skipped += report.skipped
        self.skipped_in_a_row = (self.skipped_in_a_row + 1.0) * report.skipped
        self.tokens += tokens
        self.cursor = cursor
        self.done += 1

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Return the named tensors of a checkpoint. Of a model in shards, all ranks must take all of them."""
        state = state_of(self.model, self.optimizer, self._average_model).items()
        return gathered(state, self.ranks) if self.is_sharded else state

    def load(self, checkpoint: Path, facts: Facts) -> None:
        """Take over a checkpoint that rank 0 reads, on all ranks.

        Raises:
            CheckpointError: it is not of this model, or cannot be read.
        """
        training = checkpoint / "training"
        if self.is_sharded:
            state = read_tensors(training, self.model) if self.ranks.is_first else {}
            scatter_state(state, self.model, self.optimizer, self.ranks)
        elif self.ranks.is_first:
            load_tensors(training, self.model, self.optimizer, self._average_model)
        self.share()
        self.done, self.tokens = facts.step, facts.tokens
        self.cursor = None if facts.cursor is None else Cursor(*facts.cursor)
        self.skipped.fill_(facts.skipped)
        self.skipped_in_a_row.zero_()
        if self.loss_scale is not None and facts.loss_scale is not None:
            self.loss_scale.restore(facts.loss_scale)

    def share(self) -> None:
        """Give the weights and the optimizer's state of rank 0 to all ranks. A model in shards has them already."""
        if self.ranks.size > 1 and not self.is_sharded:
            send_state(self.model, self.optimizer, self.ranks, self._average_model)

    def scored_model(self) -> PretrainingModel | Student:
        """Return the model that is evaluated, whole: the ranks score different numbers of micro-batches."""
        if self.is_sharded:
            state = state_of(self.model, self.optimizer).items()
            weights = ((name, value) for name, value in state if name.startswith("model/"))
            return export_of(dict(gathered(weights, self.ranks)), self.blank)
        return self._average_model or self.model

    @property
    def _average_model(self) -> PretrainingModel | Student | None:
        return None if self.average is None else self.average.model
