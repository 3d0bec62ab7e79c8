"""The outputs of a fine-tuned model for all inputs of a file, and their loss.

Inputs of similar length share a batch. Nothing is padded, so the order changes no output beyond rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.model.task_model import TaskModel
from unmask.tasks.inputs import ModelInputs
from unmask.tasks.objectives import task_objective

__all__ = ["Outputs", "outputs_of"]

_TOKENS = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What a model gives for N inputs.

    Attributes:
        logits: outputs of each input: (K,) for a text, (words, K) for words, (tokens, 2) for an answer.
        loss: mean loss in nats; None without labels.
    """

    logits: list[NDArray[np.float32]]
    loss: float | None


@torch.no_grad()
def outputs_of(model: TaskModel, inputs: ModelInputs, *, tokens: int = _TOKENS) -> Outputs:
    """Return the outputs for all inputs, in their order. The mode of the model is restored.

    Args:
        model: the model, on any device.
        inputs: N inputs.
        tokens: tokens of one forward pass, at most.
    """
    device = next(model.parameters()).device
    objective = task_objective(model.head.task)
    labelled = inputs.targets is not None or inputs.tags is not None
    found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(inputs)
    loss, count = 0.0, 0
    training = model.training
    model.eval()
    try:
        for some in inputs.cut(np.argsort(-inputs.lengths, kind="stable"), tokens):
            batch = inputs.batch(some).to(device, non_blocking=True)
            rows = model.rows(batch)
            logits = model.logits(model(batch, rows=rows), batch, rows).float()
            if labelled:
                loss += float(objective.score(logits, batch)[0])
                count += int(objective.count(batch))
            for index, part in zip(some.tolist(), logits.cpu().numpy(), strict=True) if model.head.pools else ():
                found[index] = part
            if not model.head.pools:
                sizes = [len(inputs.words[index]) if inputs.words else inputs.lengths[index] for index in some]
                parts = np.split(logits.cpu().numpy(), np.cumsum(sizes)[:-1])
                for index, part in zip(some.tolist(), parts, strict=True):
                    found[index] = part
    finally:
        model.train(training)
    return Outputs(logits=found, loss=loss / count if labelled and count else None)
