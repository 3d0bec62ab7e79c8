"""Exponential moving average of the weights, which is evaluated and exported in their place (`optimizer.ema_decay`).

    average <- d * average + (1 - d) * weights     after every update t = 0, 1, 2, ...
    d        = min(decay, (1 + t) / (10 + t))

It begins with the initial weights. The decay grows over the first updates, as in TensorFlow's ExponentialMovingAverage,
so the average of a short run is not that of its beginning; `torch.optim.swa_utils.AveragedModel` has one decay for all
updates. Cost: 4 bytes a parameter; each update reads the weights once.
"""

import copy

import torch

from unmask.distillation.student import Student
from unmask.model import PretrainingModel

__all__ = ["WeightAverage"]


class WeightAverage:
    """The average of a model's weights.

    Args:
        model: it begins with its weights.
        decay: share of the average that an update keeps, in (0, 1).
    Attributes:
        model: a model with the average, on the same device; it is evaluated and saved.
    """

    def __init__(self, model: PretrainingModel | Student, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay

    def update(self, model: PretrainingModel | Student, done: int) -> None:
        """Take in the weights after update number `done`, counted from 0; the host does not wait for the device."""
        decay = min(self._decay, (1 + done) / (10 + done))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1.0 - decay)
