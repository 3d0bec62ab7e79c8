"""Classification of sentence pairs: a label for each document, read off its pooled [CLS]."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from unmask.batch import IGNORED, PackedBatch
from unmask.model import PretrainingModel

from .base import Tally

__all__ = ["PairObjective"]


class PairObjective:
    """Cross-entropy in nats over all documents with a pair label, through BERT's next-sentence head."""

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ("nsp",)

    def count(self, batch: PackedBatch) -> Tensor:
        """Labelled documents of the batch."""
        return (self._labels(batch) != IGNORED).sum()

    def rows(self, batch: PackedBatch) -> Tensor:
        """The first token of every document, (S,)."""
        return batch.documents.first_rows()

    def __call__(self, model: PretrainingModel, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Summed loss over the documents, hidden (S, D)."""
        labels = self._labels(batch)
        logits = model.nsp_logits(hidden).float()
        loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
        valid = labels != IGNORED
        return Tally(loss, valid.sum(), ((logits.argmax(-1) == labels) & valid).sum())

    def _labels(self, batch: PackedBatch) -> Tensor:
        if batch.pair_labels is None:
            raise ValueError(f"{self.name}: the batch must carry pair_labels, it has none; set data.compose to 'pairs'")
        return batch.pair_labels
