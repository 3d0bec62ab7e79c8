"""Next-sentence prediction (Devlin et al. 2019): does the second segment of a document follow the first?"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from unmask.batch import IGNORED, PackedBatch
from unmask.model import PretrainingModel

from .base import Tally

__all__ = ["NSP"]


class NSP:
    """Cross-entropy in nats over all documents with a pair label; 0 means next, 1 random."""

    name = "nsp"

    def count(self, batch: PackedBatch) -> Tensor:
        """Labelled documents of the batch."""
        return (_labels(batch) != IGNORED).sum()

    def rows(self, batch: PackedBatch) -> Tensor:
        """The first token of every document, (S,)."""
        return batch.documents.first_rows()

    def __call__(self, model: PretrainingModel, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Summed loss over the documents, hidden (S, D)."""
        labels = _labels(batch)
        logits = model.nsp_logits(hidden).float()
        loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
        valid = labels != IGNORED
        return Tally(loss, valid.sum(), ((logits.argmax(-1) == labels) & valid).sum())


def _labels(batch: PackedBatch) -> Tensor:
    if batch.pair_labels is None:
        raise ValueError("nsp: the batch must carry pair_labels, it has none; compose the data as sentence pairs")
    return batch.pair_labels
