"""One training step: it updates the parameters from micro-batches and returns a few device scalars.

    count_o   = masked tokens (or pairs) of objective o in all micro-batches of the step
    loss      = sum over o of weight_o * (sum of the losses of o) / count_o
    scale     = max(norm(gradient) / clip_norm, 1)
    parameters <- update(parameters, gradient / scale), unless norm(gradient) is not finite

The step takes the counts over all its micro-batches before the first forward pass, so the gradient does not depend on
how the step is cut into micro-batches. With a mean for each micro-batch, a masked token would count more if its
micro-batch has few masked tokens.

Nothing here reads a device value on the host: counts, norms and the decision to skip an update are tensors, and the
caller reads them when it logs. Gradients accumulate in `.grad`, in the dtype of the parameters (fp32). On a GPU, one
call adds those of a micro-batch, where autograd would launch a kernel for each parameter (decision 0017). Beyond
forward and backward, the step reads the gradients once for their norm; the fused optimizer kernel clips and skips.

With several ranks the counts, the gradients and the tallies are summed over all of them (`gradient_sum`; `sharded` if
each rank holds a part of the model). So every rank has the same norm and makes the same decision.

Shapes: O objectives. The shapes of the batches are static, so `losses` can be compiled, and `graphs` can record a step.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unmask.batch import PackedBatch
from unmask.objectives import Objective, score_batch
from unmask.train.gradient_sum import GradientSum
from unmask.train.loss_scale import LossScale
from unmask.train.sharded import ShardedModel, whole

__all__ = ["Losses", "StepReport", "TrainingStep", "take_gradients"]


class Losses(NamedTuple):
    """The losses of a micro-batch.

    Attributes:
        loss: its part of the loss of the step, () fp32; carries the gradient.
        sums: summed loss of each objective, (O,) fp32, detached.
        correct: number of correct predictions of each objective, (O,) fp32.
    """

    loss: Tensor
    sums: Tensor
    correct: Tensor


class StepReport(NamedTuple):
    """The results of a step: detached tensors on the device of the model.

    Attributes:
        loss: weighted sum of the means, () fp32.
        means: mean loss of each objective, (O,) fp32; not a number where it predicted nothing.
        accuracy: share of correct predictions, in [0, 1], (O,) fp32; not a number where it predicted nothing.
        counts: number of predictions of each objective, (O,) fp32.
        gradient_norm: norm before clipping, () fp32.
        skipped: 1 if the update was left out, else 0, () fp32.
    """

    loss: Tensor
    means: Tensor
    accuracy: Tensor
    counts: Tensor
    gradient_norm: Tensor
    skipped: Tensor


@dataclass(kw_only=True, slots=True)
class TrainingStep:
    """The step, as a callable that takes micro-batches.

    Attributes:
        model: the encoder and its heads.
        objectives: (objective, weight) pairs.
        optimizer: see `optim.build_optimizer`. It reads `grad_scale` and `found_inf` on the device.
        clip_norm: upper bound of the global L2 norm of the gradient, > 0; `inf` never clips.
        all_rows: compute all rows of the last layer, not only those that an objective reads; for comparison.
        shared: sums over ranks, of whole gradients or of gradients in shards; None for a single one.
        loss_scale: what fp16 multiplies the loss by; None for other dtypes.
        compiles: whether `torch.compile` makes one graph of the forward pass of a micro-batch, and one of its backward.
        losses: function of a micro-batch and the counts of the step, (O,), compiled or not.
    """

    model: nn.Module
    objectives: Sequence[tuple[Objective, float]]
    optimizer: torch.optim.Optimizer
    clip_norm: float = 1.0
    all_rows: bool = False
    shared: GradientSum | ShardedModel | None = None
    loss_scale: LossScale | None = None
    compiles: bool = False
    losses: Callable[[PackedBatch, Tensor], Losses] = field(init=False)

    def __post_init__(self) -> None:
        self.losses = self._losses
        if self.compiles:
            self.losses = torch.compile(self._losses, fullgraph=True, dynamic=False)

    def __call__(self, batches: Sequence[PackedBatch]) -> StepReport:
        """Update the parameters once from the micro-batches of this rank in a step, already on the model's device."""
        self.optimizer.zero_grad(set_to_none=True)
        counts, sums, correct = self.accumulate(batches)
        norm, skipped = self.update()
        return self.report(counts, sums, correct, norm, skipped)

    def report(self, counts: Tensor, sums: Tensor, correct: Tensor, norm: Tensor, skipped: Tensor) -> StepReport:
        """Return the results of a step from its sums, (O,) each, its norm and its decision, () each."""
        means = sums / counts
        weights = [weight for _, weight in self.objectives]
        loss = torch.stack([mean * weight for mean, weight in zip(means.unbind(), weights, strict=True)]).sum()
        return StepReport(loss, means, correct / counts, counts, norm, skipped)

    def count(self, batches: Sequence[PackedBatch]) -> Tensor:
        """Return the number of predictions of each objective in all micro-batches of this rank, (O,) fp32."""
        return torch.stack([_total(objective, batches) for objective, _ in self.objectives])

    def scaled(self, loss: Tensor) -> Tensor:
        """Return what the backward pass begins with."""
        return loss if self.loss_scale is None else loss * self.loss_scale.scale

    def accumulate(self, batches: Sequence[PackedBatch]) -> tuple[Tensor, Tensor, Tensor]:
        """Add the gradient of the step's loss, times the loss scale, to `.grad`.

        Returns:
            Number of predictions, summed loss and number of correct predictions of each objective, (O,) fp32 each,
            of all ranks.
        """
        counts = self.count(batches)
        if self.shared is not None:
            self.shared.counts(counts)
        sums, correct = torch.zeros_like(counts), torch.zeros_like(counts)
        totals: dict[Tensor, Tensor] = {}
        takes = len(batches) > 1 and _launches_cost(counts.device) and not isinstance(self.shared, ShardedModel)
        for number, batch in enumerate(batches):
            found = self.losses(batch, counts)
            loss = self.scaled(found.loss)
            if self.shared is not None and number == len(batches) - 1:
                with self.shared.last_backward(totals):
                    loss.backward()
            else:
                loss.backward()
                if takes:
                    take_gradients(self.model.parameters(), totals)
            sums += found.sums
            correct += found.correct
        if self.shared is not None:
            self.shared.finish(totals, sums, correct)
        else:
            for parameter, total in totals.items():
                parameter.grad = total
        return counts, sums, correct

    def _losses(self, batch: PackedBatch, counts: Tensor) -> Losses:
        tallies = score_batch(self.model, self.objectives, batch, all_rows=self.all_rows)
        terms = [
            tally.loss_sum * (weight / count.clamp(min=1.0))
            for tally, (_, weight), count in zip(tallies, self.objectives, counts.unbind(), strict=True)
        ]
        return Losses(
            torch.stack(terms).sum(),
            torch.stack([tally.loss_sum.detach().float() for tally in tallies]),
            torch.stack([tally.correct.detach().float() for tally in tallies]),
        )

    def update(self) -> tuple[Tensor, Tensor]:
        """Clip the gradient and apply it, unless its norm is not finite.

        Returns:
            The norm, () fp32, and 1 if the update was left out, else 0, () fp32.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if isinstance(self.shared, ShardedModel):
            norm = whole(norm)
        if self.loss_scale is not None:
            norm = norm / self.loss_scale.scale
        skipped = 1.0 - torch.isfinite(norm).float()
        # As with torch.amp.GradScaler, the fused kernel divides by grad_scale, and does nothing if found_inf is 1.
        self.optimizer.grad_scale = self.scaled((norm / self.clip_norm).clamp(min=1.0))  # type: ignore[attr-defined]
        self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.loss_scale is not None:
            self.loss_scale.update(skipped)
        return norm, skipped


def _launches_cost(device: torch.device) -> bool:
    return device.type != "cpu"


def take_gradients(parameters: Iterable[Tensor], totals: dict[Tensor, Tensor]) -> None:
    """Take the gradients out of `.grad`, and add each to the total of its parameter, in place and all in one call."""
    found = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    known = [parameter for parameter in found if parameter in totals]
    if known:
        torch._foreach_add_([totals[parameter] for parameter in known], [found[parameter] for parameter in known])
    for parameter, gradient in found.items():
        totals.setdefault(parameter, gradient)
        parameter.grad = None


def _total(objective: Objective, batches: Sequence[PackedBatch]) -> Tensor:
    """Return the number of predictions of an objective in all micro-batches of a step, () fp32."""
    return torch.stack([objective.count(batch).float() for batch in batches]).sum()
