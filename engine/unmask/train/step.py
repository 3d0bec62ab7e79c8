"""One training step: micro-batches in, updated parameters and a few device scalars out.

    count_o   = masked tokens (or pairs) of objective o in all micro-batches of the step
    loss      = sum over o of weight_o * (sum of the losses of o) / count_o
    scale     = max(norm(gradient) / clip_norm, 1)
    parameters <- AdamW(parameters, gradient / scale), unless norm(gradient) is not finite

The counts are taken over the whole step before the first forward pass, so the gradient does not depend on how the
step is cut into micro-batches; a mean per micro-batch would weigh a masked token by the emptiness of its neighbours.
Shapes are those of the batches, which are static. Nothing here reads a device value on the host: counts, norms and
the decision to skip an update are tensors, and the caller looks at them when it logs. Gradients accumulate in
`.grad`, in the dtype of the parameters (fp32). Cost beyond forward and backward: one read of the gradients for their
norm; clipping and skipping happen inside the fused optimizer kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask.model import PretrainingModel
from unmask.objectives import Objective, score_batch

__all__ = ["StepReport", "TrainingStep"]


class StepReport(NamedTuple):
    """What happened in a step; every field is a detached tensor on the device of the model.

    Fields:
        loss: (), fp32, the means weighted over objectives.
        means: (O,), fp32, the mean loss of each objective; not a number where it predicted nothing.
        accuracy: (O,), fp32, in [0, 1]; not a number there either.
        counts: (O,), fp32, terms that each mean is over.
        gradient_norm: (), fp32, before clipping.
        skipped: (), fp32, 1 when the update was left out.
    """

    loss: Tensor
    means: Tensor
    accuracy: Tensor
    counts: Tensor
    gradient_norm: Tensor
    skipped: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStep:
    """The step as a callable of its micro-batches.

    Fields:
        model: the encoder and its heads.
        objectives: (objective, weight) pairs.
        optimizer: fused `torch.optim.AdamW`, see `optim.adamw`; it reads `grad_scale` and `found_inf` on the device.
        clip_norm: upper bound of the global L2 norm of the gradient, > 0; `inf` never clips.
        all_rows: run the last layer on all rows, not only on those that an objective reads; for comparison.
    """

    model: PretrainingModel
    objectives: Sequence[tuple[Objective, float]]
    optimizer: torch.optim.Optimizer
    clip_norm: float = 1.0
    all_rows: bool = False

    def __call__(self, batches: Sequence[PackedBatch]) -> StepReport:
        """Update the parameters once from all micro-batches of a step, already on the model's device."""
        self.optimizer.zero_grad(set_to_none=True)
        counts, sums, correct = self.accumulate(batches)
        norm, skipped = self.update()
        means = sums / counts
        weights = [weight for _, weight in self.objectives]
        loss = torch.stack([mean * weight for mean, weight in zip(means.unbind(), weights, strict=True)]).sum()
        return StepReport(loss, means, correct / counts, counts, norm, skipped)

    def accumulate(self, batches: Sequence[PackedBatch]) -> tuple[Tensor, Tensor, Tensor]:
        """Add the gradient of the step's loss to `.grad`; returns counts, loss sums and correct answers, each (O,)
        fp32.
        """
        counts = torch.stack([_total(objective, batches) for objective, _ in self.objectives])
        sums, correct = torch.zeros_like(counts), torch.zeros_like(counts)
        for batch in batches:
            tallies = score_batch(self.model, self.objectives, batch, all_rows=self.all_rows)
            terms = [
                tally.loss_sum * (weight / count.clamp(min=1.0))
                for tally, (_, weight), count in zip(tallies, self.objectives, counts.unbind(), strict=True)
            ]
            torch.stack(terms).sum().backward()
            sums += torch.stack([tally.loss_sum.detach().float() for tally in tallies])
            correct += torch.stack([tally.correct.detach().float() for tally in tallies])
        return counts, sums, correct

    def update(self) -> tuple[Tensor, Tensor]:
        """Clip and apply the gradient; returns its norm and 1.0 if it was not finite and therefore left out, both ()
        fp32.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        skipped = 1.0 - torch.isfinite(norm).float()
        # The protocol of torch.amp.GradScaler: the fused kernel divides by grad_scale and does nothing when found_inf
        # is 1.
        self.optimizer.grad_scale = (norm / self.clip_norm).clamp(min=1.0)  # type: ignore[attr-defined]
        self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
        self.optimizer.step()
        return norm, skipped


def _total(objective: Objective, batches: Sequence[PackedBatch]) -> Tensor:
    """Terms of an objective in all micro-batches of a step, () fp32."""
    return torch.stack([objective.count(batch).float() for batch in batches]).sum()
