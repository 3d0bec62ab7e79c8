"""Training objectives: masked and causal language modelling, next-sentence and sentence-order prediction.

    MLM   the original ids at the masked tokens                  Devlin et al. 2019, arXiv:1810.04805
    CLM   the next id at every token that has one                as in Zhao et al. 2024, arXiv:2402.13991
    NSP   whether segment B follows segment A, from [CLS]        Devlin et al. 2019
    SOP   whether segments A and B are in order, from [CLS]      Lan et al. 2020, arXiv:1909.11942

An objective returns a summed loss and a count; the training step divides one by the other. The step first counts the
predictions of all its micro-batches, so that it divides by the count of the whole global step (ranks x accumulation)
and not by that of one micro-batch.

Shapes: T packed tokens, M slots for masked tokens, S documents, D hidden, R rows that an objective reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.batch import IGNORED, PackedBatch
from unmask.limits import INCOMPATIBLE_OBJECTIVES
from unmask.model import PretrainingModel

__all__ = [
    "CLM",
    "MLM",
    "NSP",
    "SOP",
    "STATE_OBJECTIVES",
    "TOKEN_OBJECTIVES",
    "Objective",
    "Tally",
    "build_objectives",
    "score_batch",
]

TOKEN_OBJECTIVES = ("mlm", "clm")
"""Objectives that predict tokens. Their loss has a perplexity."""

STATE_OBJECTIVES = ("embedding", "hidden", "attention", "relation")
"""Objectives of distillation, which compare states of two models. They predict nothing, so they have no accuracy."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Score of one micro-batch: scalars on its device.

    Attributes:
        loss_sum: summed loss in nats, fp32; carries the gradient.
        count: number of predictions, int64.
        correct: number of correct predictions, int64.
    """

    loss_sum: Tensor
    count: Tensor
    correct: Tensor


class Objective(Protocol):
    """One term of the training loss.

    Attributes:
        name: its name in configurations and logs.
        heads: the heads of `PretrainingModel` that it needs; none for the output layer of a `TaskModel`.
    """

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]]

    def count(self, batch: PackedBatch) -> Tensor:
        """Return the number of predictions in the batch: () int64, on the batch's device."""

    def rows(self, batch: PackedBatch) -> Tensor | None:
        """Return the rows of the hidden states that it reads, int64 (R,) with a fixed R, or None for all T."""

    # `model` is the kind of model that has its heads
    def __call__(self, model: Any, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Score the hidden states of its rows, (R, D)."""


def build_objectives(weights: Mapping[str, float]) -> list[tuple[Objective, float]]:
    """Return the objectives with a weight above 0, in the order given.

    Raises:
        ValueError: an unknown name, no weight above 0, or two objectives that need different labels for one token
            or one pair.
    """
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


def score_batch(
    model: nn.Module,
    objectives: Sequence[tuple[Objective, float]],
    batch: PackedBatch,
    *,
    all_rows: bool = False,
) -> list[Tally]:
    """Run the model on a batch and score it by every objective.

    If every objective reads only some rows, the encoder's last layer computes only those. Loss and gradients stay the
    same.

    Args:
        model: the encoder and the heads that the objectives need.
        objectives: (objective, weight) pairs; the weights are not used here.
        batch: a batch on the device of the model.
        all_rows: compute all rows of the last layer anyway, for comparison.
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


class _TokenObjective:
    """Cross-entropy in nats over all rows with a label, through the masked-LM head; reads M rows."""

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ("mlm",)

    def count(self, batch: PackedBatch) -> Tensor:
        return (self._labels(batch)[1] != IGNORED).sum()

    def rows(self, batch: PackedBatch) -> Tensor:
        return self._labels(batch)[0]

    def __call__(self, model: PretrainingModel, hidden: Tensor, batch: PackedBatch) -> Tally:
        scored = model.mlm_loss(hidden, self._labels(batch)[1])
        return Tally(scored.loss_sum, scored.count, scored.correct)

    def _labels(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        if batch.masked is None or batch.labels is None:
            raise ValueError(
                f"{self.name}: the batch must carry masked rows and labels, it has none; mask it in the data stream"
            )
        return batch.masked, batch.labels


class MLM(_TokenObjective):
    """Masked language modelling: predict the original ids at the masked rows."""

    name = "mlm"


class CLM(_TokenObjective):
    """Causal language modelling: every token predicts the next token of its document.

        loss = - sum of log p(id[t + 1] | tokens of the document up to t) over the tokens t that are not its last

    `unmask.data.masking` makes the rows and labels. [CLS] predicts the first token, the last token predicts [SEP], and
    nothing predicts [CLS]. The published code instead predicts a document's first token from the separator of the
    document before it. In scope `sequence` that happens here too, because there the separator sees that document.
    The head is the masked-LM head; `transformers` calls such a model BertLMHeadModel.
    """

    name = "clm"

    def __call__(self, model: PretrainingModel, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Score the hidden states of the rows that predict, (M, D).

        Raises:
            ValueError: the model is not causal.
        """
        if not model.config.causal:
            raise ValueError("clm: the model must be causal, or each token sees its answer; set model.causal to true")
        return super().__call__(model, hidden, batch)


class _PairObjective:
    """Cross-entropy in nats over all documents with a pair label, through BERT's next-sentence head; reads S rows."""

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ("nsp",)

    def count(self, batch: PackedBatch) -> Tensor:
        return (self._labels(batch) != IGNORED).sum()

    def rows(self, batch: PackedBatch) -> Tensor:
        # a document begins with its [CLS]
        return batch.documents.first_rows()

    def __call__(self, model: PretrainingModel, hidden: Tensor, batch: PackedBatch) -> Tally:
        labels = self._labels(batch)
        logits = model.nsp_logits(hidden).float()
        loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
        valid = labels != IGNORED
        return Tally(loss, valid.sum(), ((logits.argmax(-1) == labels) & valid).sum())

    def _labels(self, batch: PackedBatch) -> Tensor:
        if batch.pair_labels is None:
            raise ValueError(
                f"{self.name}: the batch must carry pair_labels, it has none; set composition.strategy to 'pairs'"
            )
        return batch.pair_labels


class NSP(_PairObjective):
    """Next-sentence prediction. Label 0: segment B follows segment A; 1: it comes from somewhere else."""

    name = "nsp"


class SOP(_PairObjective):
    """Sentence-order prediction. Label 0: segment B follows segment A; 1: the two are swapped.

    It uses the next-sentence head, so the model is a BertForPreTraining whose `seq_relationship` tells the order.
    """

    name = "sop"
