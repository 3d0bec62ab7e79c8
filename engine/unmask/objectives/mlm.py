"""Masked language modelling (Devlin et al. 2019): predict the original ids at the masked rows."""

from __future__ import annotations

from torch import Tensor

from unmask.batch import IGNORED, PackedBatch
from unmask.model import PretrainingModel

from .base import Tally

__all__ = ["MLM"]


class MLM:
    """Cross-entropy in nats over all masked tokens."""

    name = "mlm"

    def count(self, batch: PackedBatch) -> Tensor:
        """Masked tokens of the batch."""
        return (_labels(batch)[1] != IGNORED).sum()

    def rows(self, batch: PackedBatch) -> Tensor:
        """The masked rows, (M,)."""
        return _labels(batch)[0]

    def __call__(self, model: PretrainingModel, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Summed loss over the masked rows, hidden (M, D)."""
        scored = model.mlm_loss(hidden, _labels(batch)[1])
        return Tally(scored.loss_sum, scored.count, scored.correct)


def _labels(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    if batch.masked is None or batch.labels is None:
        raise ValueError("mlm: the batch must carry masked rows and labels, it has none; mask it in the data stream")
    return batch.masked, batch.labels
