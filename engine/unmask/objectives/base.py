"""The contract of an objective: it counts what it will score, says which rows it reads, then scores them.

A step first counts all its micro-batches, so that every loss is divided by the count of the whole global
step (ranks x accumulation) and never by that of one micro-batch.

`score_batch` is the forward pass of all objectives together. Where every objective reads a few rows only, the last
layer of the encoder works on those alone: nobody sees what it would make of the others. Loss and gradients stay the
same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask.limits import INCOMPATIBLE_OBJECTIVES
from unmask.model import PretrainingModel

__all__ = ["Objective", "Tally", "build_objectives", "score_batch"]


@dataclass(frozen=True, slots=True)
class Tally:
    """Score of one micro-batch, scalars on its device.

    Attributes:
        loss_sum: summed loss in nats, fp32; carries the gradient.
        count: number of predictions, int64.
        correct: how many were right, int64.
    """

    loss_sum: Tensor
    count: Tensor
    correct: Tensor


class Objective(Protocol):
    """One term of the training loss.

    Attributes:
        name: in configurations and logs.
        heads: of `PretrainingModel` that it needs.
    """

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]]

    def count(self, batch: PackedBatch) -> Tensor:
        """Number of predictions in the batch, a scalar int64 tensor on its device."""

    def rows(self, batch: PackedBatch) -> Tensor | None:
        """Rows of the hidden states that it reads, int64 (R,) of static length; None: all T."""

    def __call__(self, model: PretrainingModel, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Score the hidden states of its rows, (R, D)."""


def score_batch(
    model: PretrainingModel,
    objectives: Sequence[tuple[Objective, float]],
    batch: PackedBatch,
    *,
    all_rows: bool = False,
) -> list[Tally]:
    """Run the model on a batch and score it by every objective.

    Args:
        model: the encoder and the heads that the objectives need.
        objectives: (objective, weight) pairs; weights are not looked at.
        batch: on the device of the model.
        all_rows: run the last layer on all rows whatever is read; for comparison.
    Returns:
        One Tally for each objective, in their order.
    """
    wanted = [objective.rows(batch) for objective, _ in objectives]
    few = [rows for rows in wanted if rows is not None]
    if all_rows or len(few) < len(wanted):
        hidden = model(batch)
        read = [hidden if rows is None else hidden.index_select(0, rows) for rows in wanted]
    else:
        rows = few[0] if len(few) == 1 else torch.cat(few)
        read = list(model(batch, rows=rows).split([len(rows) for rows in few]))
    return [objective(model, hidden, batch) for (objective, _), hidden in zip(objectives, read, strict=True)]


def build_objectives(weights: Mapping[str, float]) -> list[tuple[Objective, float]]:
    """The objectives with a weight above 0, in the order given.

    Raises:
        ValueError: an unknown name, no weight above 0, or two objectives that read one label in two ways.
    """
    from .clm import CLM
    from .mlm import MLM
    from .nsp import NSP
    from .sop import SOP

    known: dict[str, type[Objective]] = {kind.name: kind for kind in (MLM, CLM, NSP, SOP)}
    for name in weights:
        if name not in known:
            raise ValueError(f"objectives: {name!r} is not known; there are {', '.join(known)}")
    chosen: list[tuple[Objective, float]] = [(known[name](), weight) for name, weight in weights.items() if weight > 0]
    if not chosen:
        raise ValueError("objectives: at least one objective needs a weight above 0; set objective.mlm to 1.0")
    names = {objective.name for objective, _ in chosen}
    for one, other, reason in INCOMPATIBLE_OBJECTIVES:
        if {one, other} <= names:
            raise ValueError(f"objectives: {one!r} and {other!r} cannot be summed, because {reason}; leave one out")
    return chosen
