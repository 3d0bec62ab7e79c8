"""The contract of an objective: it counts what it will score, then scores it.

A step first counts all its micro-batches, so that every loss is divided by the count of the whole global
step (ranks x accumulation) and never by that of one micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from unmask.batch import PackedBatch
from unmask.model import PretrainingModel

__all__ = ["Objective", "Tally", "build_objectives"]


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
    """One term of the training loss."""

    name: str

    def count(self, batch: PackedBatch) -> Tensor:
        """Number of predictions in the batch, a scalar int64 tensor on its device."""

    def __call__(self, model: PretrainingModel, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Score the hidden states (T, D) of the batch."""


def build_objectives(weights: Mapping[str, float]) -> list[tuple[Objective, float]]:
    """The objectives with a weight above 0, in the order given.

    Raises:
        ValueError: an unknown name, or no weight above 0.
    """
    from .mlm import MLM
    from .nsp import NSP

    known: dict[str, type[MLM] | type[NSP]] = {"mlm": MLM, "nsp": NSP}
    for name in weights:
        if name not in known:
            raise ValueError(f"objectives: {name!r} is not one of {', '.join(map(repr, known))}")
    chosen: list[tuple[Objective, float]] = [(known[name](), weight) for name, weight in weights.items() if weight > 0]
    if not chosen:
        raise ValueError("objectives: at least one objective needs a weight above 0; set objective.mlm to 1.0")
    return chosen
