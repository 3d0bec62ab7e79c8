"""Prediction of tokens: at the rows that the batch names, the ids that it names, through the masked-LM head."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unmask.batch import IGNORED, PackedBatch
from unmask.model import PretrainingModel

from .base import Tally

__all__ = ["TokenObjective"]


class TokenObjective:
    """Cross-entropy in nats over all rows with a label."""

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ("mlm",)

    def count(self, batch: PackedBatch) -> Tensor:
        """Tokens to predict in the batch."""
        return (self._labels(batch)[1] != IGNORED).sum()

    def rows(self, batch: PackedBatch) -> Tensor:
        """The rows that predict, (M,)."""
        return self._labels(batch)[0]

    def __call__(self, model: PretrainingModel, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Summed loss over these rows, hidden (M, D)."""
        scored = model.mlm_loss(hidden, self._labels(batch)[1])
        return Tally(scored.loss_sum, scored.count, scored.correct)

    def _labels(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        if batch.masked is None or batch.labels is None:
            raise ValueError(
                f"{self.name}: the batch must carry masked rows and labels, it has none; mask it in the data stream"
            )
        return batch.masked, batch.labels
