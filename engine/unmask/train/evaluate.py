"""Held-out evaluation: the same text and the same masks every time, averaged over all masked tokens.

    loss = sum of the losses of all masked tokens / their number        perplexity = exp(loss)
    masked accuracy = share of the masked tokens whose likeliest prediction is the original

The held-out stream is one fixed epoch with its own seed, so two evaluations of the same weights agree and curves of
two runs compare. Dropout is off; the mode of the model is restored afterwards.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask.model import PretrainingModel
from unmask.objectives import Objective, score_batch
from unmask.train.logging.metrics import TOKEN_OBJECTIVES, perplexity

__all__ = ["Score", "as_row", "evaluate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Result of one objective on held-out text.

    Fields: name of the objective; loss in nats; accuracy in [0, 1]; count of masked tokens or pairs behind them, and
        where it is 0, the other two are not a number.
    """

    name: str
    loss: float
    accuracy: float
    count: int

    @property
    def perplexity(self) -> float:
        """exp(loss): how many equally likely tokens the model hesitates between; inf when it overflows."""
        return perplexity(self.loss)

    def __str__(self) -> str:
        if not self.count:
            return f"{self.name}: nothing to predict, no score"
        of_tokens = f"perplexity {self.perplexity:,.1f}, " if self.name in TOKEN_OBJECTIVES else ""
        return f"{self.name} loss {self.loss:.3f}, {of_tokens}accuracy {self.accuracy:.1%} of {self.count:,}"


def as_row(scores: Sequence[Score], weights: Sequence[float]) -> dict[str, float]:
    """Scores as fields of a log row, named as in the rows of training, so that the two compare: `loss` is the weighted
    sum, and with several objectives each has its own beside it.
    """
    row = {"loss": sum(weight * score.loss for score, weight in zip(scores, weights, strict=True))}
    for score in scores:
        mlm = score.name == "mlm"
        if len(scores) > 1:
            row[f"{score.name}_loss"] = score.loss
        if score.name in TOKEN_OBJECTIVES:
            row["perplexity"] = score.perplexity
        row["masked_accuracy" if mlm else f"{score.name}_accuracy"] = score.accuracy
        row["masked_tokens" if mlm else f"{score.name}_count"] = score.count
    return row


@torch.no_grad()
def evaluate(
    model: PretrainingModel,
    objectives: Sequence[tuple[Objective, float]],
    batches: Iterable[PackedBatch],
    *,
    tokens: int,
    device: torch.device | str = "cpu",
) -> list[Score]:
    """Score `model` on at most `tokens` tokens of `batches` (at least one micro-batch), one Score for each objective.

    An empty stream gives no scores. The host waits for the device once, at the end.
    """
    training = model.training
    model.eval()
    total: Tensor | None = None
    try:
        for batch in _at_most(batches, tokens):
            moved = batch.to(device, non_blocking=True)
            tallies = score_batch(model, objectives, moved)
            rows = [torch.stack([t.loss_sum.double(), t.correct.double(), t.count.double()]) for t in tallies]
            total = torch.stack(rows) if total is None else total + torch.stack(rows)
    finally:
        model.train(training)
    if total is None:
        return []
    means = torch.cat([total[:, :2] / total[:, 2:], total[:, 2:]], dim=1).tolist()
    return [
        Score(name=objective.name, loss=loss, accuracy=accuracy, count=int(count))
        for (objective, _), (loss, accuracy, count) in zip(objectives, means, strict=True)
    ]


def _at_most(batches: Iterable[PackedBatch], tokens: int) -> Iterator[PackedBatch]:
    """The first batches whose capacities, all alike, sum to at most `tokens`; one at least."""
    seen = 0
    for batch in batches:
        yield batch
        seen += batch.ids.numel()
        if seen + batch.ids.numel() > tokens:
            return
