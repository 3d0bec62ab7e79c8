"""Evaluation on held-out text: the same text and the same masks every time.

    loss = sum of the losses of all masked tokens / their number        perplexity = exp(loss)
    masked accuracy = share of the masked tokens whose most probable prediction is the original token

The held-out stream is one fixed epoch with its own seed. So two evaluations of the same weights agree, and the curves
of two runs can be compared. Dropout is off during an evaluation. `part_of` makes other documents the held-out ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, cast

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask.data.documents import Chosen
from unmask.data.stream import TokenStore
from unmask.distillation.student import Student
from unmask.model import PretrainingModel
from unmask.objectives import STATE_OBJECTIVES, TOKEN_OBJECTIVES, Objective, score_batch
from unmask.train.logging.metrics import perplexity
from unmask.train.parallel import ALONE, Ranks

__all__ = ["Score", "Split", "as_row", "part_of", "score_model"]

Split = Literal["held_out", "train", "all"]
"""Documents of a store: the held-out ones, those to train on, or all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Result of one objective on held-out text.

    Attributes:
        name: name of the objective.
        loss: mean loss in nats; not a number if `count` is 0.
        accuracy: share of correct predictions, in [0, 1]; not a number if `count` is 0.
        count: number of predictions: masked tokens or pairs.
    """

    name: str
    loss: float
    accuracy: float
    count: int

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens with the same loss; inf on overflow."""
        return perplexity(self.loss)

    def __str__(self) -> str:
        if not self.count:
            return f"{self.name}: nothing to predict, no score"
        if self.name in STATE_OBJECTIVES:
            return f"{self.name} loss {self.loss:.4g}"
        of_tokens = f"perplexity {self.perplexity:,.1f}, " if self.name in TOKEN_OBJECTIVES else ""
        return f"{self.name} loss {self.loss:.3f}, {of_tokens}accuracy {self.accuracy:.1%} of {self.count:,}"


def as_row(scores: Sequence[Score], weights: Sequence[float]) -> dict[str, float]:
    """Return scores as fields of a log row, under the names that training rows have.

    `loss` is the weighted sum. With several objectives, each also has a loss of its own.
    """
    row = {"loss": sum(weight * score.loss for score, weight in zip(scores, weights, strict=True))}
    for score in scores:
        mlm = score.name == "mlm"
        if len(scores) > 1:
            row[f"{score.name}_loss"] = score.loss
        if score.name in TOKEN_OBJECTIVES:
            row["perplexity"] = score.perplexity
        if score.name in STATE_OBJECTIVES:
            continue
        row["masked_accuracy" if mlm else f"{score.name}_accuracy"] = score.accuracy
        row["masked_tokens" if mlm else f"{score.name}_count"] = score.count
    return row


@torch.no_grad()
def score_model(
    model: PretrainingModel | Student,
    objectives: Sequence[tuple[Objective, float]],
    batches: Iterable[PackedBatch],
    *,
    tokens: int,
    device: torch.device | str = "cpu",
    ranks: Ranks = ALONE,
) -> list[Score]:
    """Score a model on held-out text.

    The host waits for the device once, at the end. The mode of the model, training or evaluation, is restored. Each of
    several ranks scores its own micro-batches, and all get the scores of all micro-batches.

    Args:
        model: the encoder and the heads that the objectives need.
        objectives: (objective, weight) pairs; the weights are not used here.
        batches: micro-batches of one capacity, on the CPU; of several ranks, those numbered rank, rank + size, ...
        tokens: maximum number of tokens to read on all ranks, padding included; at least one micro-batch is read.
        device: device of the model.
        ranks: the ranks.
    Returns:
        One Score for each objective; an empty list if there is no batch.
    """
    training = model.training
    model.eval()
    read = 0
    total: Tensor | None = None
    try:
        for batch in _at_most(batches, tokens, ranks):
            moved = batch.to(device, non_blocking=True)
            tallies = score_batch(model, objectives, moved)
            rows = [torch.stack([t.loss_sum.double(), t.correct.double(), t.count.double()]) for t in tallies]
            total = torch.stack(rows) if total is None else total + torch.stack(rows)
            read += 1
    finally:
        model.train(training)
    if total is None and ranks.size == 1:
        return []
    if total is None:
        # other ranks may have read something
        total = torch.zeros(len(objectives), 3, dtype=torch.float64, device=device)
    total = torch.cat([total, total.new_full((1, 3), read)])
    ranks.sum(total)
    *means, (_, _, read) = torch.cat([total[:, :2] / total[:, 2:], total[:, 2:]], dim=1).tolist()
    if not read:
        return []
    return [
        Score(name=objective.name, loss=loss, accuracy=accuracy, count=int(count))
        for (objective, _), (loss, accuracy, count) in zip(objectives, means, strict=True)
    ]


def part_of(store: TokenStore, split: Split, *, held_out_fraction: float) -> TokenStore:
    """Return a store with the documents of `store`, in which those of `split` are the held-out ones.

    A stream over it needs a held-out fraction above 0, whose value does not matter.

    Args:
        store: the documents.
        split: those to evaluate on.
        held_out_fraction: share of them that training holds out, in [0, 1).
    """
    held_out = store.held_out(held_out_fraction) if held_out_fraction else Chosen()
    chosen = {"held_out": held_out, "train": held_out.others(), "all": Chosen(all_but=True)}[split]
    return cast(TokenStore, _StorePart(store, chosen))


class _StorePart:
    """A store with held-out documents of its own; all else is the other store's."""

    def __init__(self, store: TokenStore, held_out: Chosen) -> None:
        self._store = store
        self._held_out = held_out

    def held_out(self, fraction: float) -> Chosen:
        return self._held_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _at_most(batches: Iterable[PackedBatch], tokens: int, ranks: Ranks) -> Iterator[PackedBatch]:
    """Yield those of the first batches that are this rank's; their capacities sum to at most `tokens`, at least one."""
    for number, batch in zip(count(ranks.rank, ranks.size), batches, strict=False):
        most = max(1, tokens // batch.ids.numel())
        if number >= most:
            return
        yield batch
        if number + ranks.size >= most:
            return
