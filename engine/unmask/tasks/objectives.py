"""The losses of fine-tuning, as objectives over packed batches (Devlin et al. 2019, arXiv:1810.04805, section 4).

    classification   cross-entropy of the class of each text                                  mean over texts
    multi_label      binary cross-entropy of each class of each text                          mean over both
    regression       (output - target)^2                                                      mean over texts
    entities         cross-entropy of the tag at the first token of each word                 mean over words
    qa               (cross-entropy of the first token + that of the last token) / 2          mean over texts

Each equals the loss of the class of `transformers`. In question answering the softmax is over all tokens of a document;
`BertForQuestionAnswering` takes it over the padding too, so the two are equal where nothing is padded.

Shapes: T packed tokens, S documents, M labelled words, K outputs, L tokens of the longest document.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.batch import IGNORED, PackedBatch
from unmask.config.head import HeadTask
from unmask.objectives import Tally

__all__ = ["TaskObjective", "by_document", "task_objective"]


class TaskObjective:
    """What the objectives of tasks share: they read the rows that the output layer reads, and `batch.targets`."""

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ()

    def count(self, batch: PackedBatch) -> Tensor:
        """Return the number of predictions in the batch: () int64, on the batch's device."""
        return torch.tensor(_targets(self.name, batch).numel(), device=batch.ids.device)

    def rows(self, batch: PackedBatch) -> Tensor | None:
        """Return the first token of each document, int64 (S,)."""
        return batch.documents.first_rows()[: batch.real_documents]

    def __call__(self, model: Any, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Score the hidden states of its rows."""
        loss, correct = self.score(model.logits(hidden, batch, self.rows(batch)).float(), batch)
        return Tally(loss, self.count(batch), correct)

    def score(self, logits: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Return the summed loss and the number of correct predictions of logits in fp32."""
        raise NotImplementedError


class _Classification(TaskObjective):
    name = "classification"

    def score(self, logits: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        targets = _targets(self.name, batch)
        return F.cross_entropy(logits, targets, reduction="sum"), (logits.argmax(-1) == targets).sum()


class _MultiLabel(TaskObjective):
    name = "multi_label"

    def score(self, logits: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        targets = _targets(self.name, batch)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return loss, ((logits > 0) == (targets > 0.5)).sum()


class _Regression(TaskObjective):
    name = "regression"

    def score(self, logits: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        loss = F.mse_loss(logits.squeeze(-1), _targets(self.name, batch), reduction="sum")
        return loss, torch.zeros((), dtype=torch.int64, device=logits.device)


class _Entities(TaskObjective):
    name = "entities"

    def count(self, batch: PackedBatch) -> Tensor:
        return (self._labels(batch)[1] != IGNORED).sum()

    def rows(self, batch: PackedBatch) -> Tensor:
        return self._labels(batch)[0]

    def score(self, logits: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        labels = self._labels(batch)[1]
        loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
        return loss, ((logits.argmax(-1) == labels) & (labels != IGNORED)).sum()

    def _labels(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        if batch.masked is None or batch.labels is None:
            raise ValueError(
                "entities: the batch must carry the first token of each word and its tag, it has none; make it with "
                "masked= and labels= of unmask.batch.assemble"
            )
        return batch.masked, batch.labels


class _Answers(TaskObjective):
    name = "qa"

    def count(self, batch: PackedBatch) -> Tensor:
        return torch.tensor(len(_targets(self.name, batch)), device=batch.ids.device)

    def rows(self, batch: PackedBatch) -> None:
        return None

    def score(self, logits: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        targets = _targets(self.name, batch)
        # (S, L) each; a token that is not there has the probability 0
        sides = by_document(logits, batch).unbind(-1)
        losses = [F.cross_entropy(side, target, reduction="sum") for side, target in zip(sides, targets.T, strict=True)]
        right = torch.stack([side.argmax(-1) == target for side, target in zip(sides, targets.T, strict=True)])
        return torch.stack(losses).sum() / 2, right.all(0).sum()


_OBJECTIVES: dict[str, type[TaskObjective]] = {
    kind.name: kind for kind in (_Classification, _MultiLabel, _Regression, _Entities, _Answers)
}


def task_objective(task: HeadTask) -> TaskObjective:
    """Return the objective of a task."""
    return _OBJECTIVES[task]()


def by_document(logits: Tensor, batch: PackedBatch) -> Tensor:
    """Return the outputs for all tokens with a row for each document, (T, K) -> (S, L, K); -inf beyond its end."""
    documents = batch.documents
    count, length = batch.real_documents, documents.max_seqlen
    ids, positions = documents.document_ids[: batch.real_tokens], documents.positions[: batch.real_tokens]
    rows = logits.new_full((count * length, logits.shape[-1]), -torch.inf)
    return rows.index_copy(0, ids * length + positions, logits[: batch.real_tokens]).view(count, length, -1)


def _targets(task: str, batch: PackedBatch) -> Tensor:
    if batch.targets is None:
        raise ValueError(
            f"{task}: the batch must carry the targets of its documents, it has none; make it with targets= of "
            "unmask.batch.assemble"
        )
    return batch.targets
