"""The record of one update: lists of tensors, an entry for each parameter, and the settings that they share.

An update changes tensors in place. It returns nothing and nothing is differentiated. What differs between parameters or
from step to step is a list or a tensor on the device, so a captured CUDA graph replays the update with new values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

__all__ = ["ALGORITHMS", "Algorithm", "Arguments"]

Algorithm = Literal["adamw", "lamb"]

ALGORITHMS: tuple[Algorithm, ...] = ("adamw", "lamb")
"""The algorithms by name; `reference` says what each computes."""


class Arguments(NamedTuple):
    """What an update takes; `reference` is its definition.

    N parameters on one device. A list has N entries unless it says otherwise; entry i of each list belongs to parameter
    i, and its tensors have that parameter's shape. Parameters and moments are fp32 (fp64 on the plain backends; 16 bits
    on "torch").

    Attributes:
        params: the parameters, all of one dtype. Changed.
        grads: their gradients, all of one dtype: that of params, or 16 bits. A backend may leave them divided by
            grad_scale and clipped, as PyTorch's fused kernel does.
        exp_avg: first moments, dtype of params. Changed.
        exp_avg_sq: second moments, dtype of params. Changed.
        steps: updates so far, () fp32 on the device of params; distinct tensors. Changed, except by a skipped update.
        copies: copies of the parameters in bf16 or fp16, all of one dtype, written with the parameters; or no entries.
        norm: None, or () fp32: the global norm is wanted. It gets that norm of the gradients, divided by grad_scale and
            before clipping; clipping happens, and a norm that is not finite skips the update. Changed.
        lr: learning rates, () fp32 or fp64 on the device of params; entries may be the same tensor.
        grad_scale: what the gradients are divided by, () fp32, or None for 1.
        found_inf: not 0 skips the update, () fp32, or None for 0.
        weight_decay: multiplied by the learning rate and the parameter.
        trust: whether "lamb" scales the update of a parameter by its trust ratio.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, >= 0.
        max_norm: largest global norm, > 0; larger gradients are scaled down to it. inf never clips. Needs norm.
        bias_correction: whether the moments are corrected for their start at zero.
        clip_update: whether "adamw" lowers the learning rate of a parameter whose update is too large (StableAdamW).
        algorithm: "adamw" or "lamb".
    """

    params: Sequence[Tensor]
    grads: Sequence[Tensor]
    exp_avg: Sequence[Tensor]
    exp_avg_sq: Sequence[Tensor]
    steps: Sequence[Tensor]
    copies: Sequence[Tensor]
    norm: Tensor | None
    lr: Sequence[Tensor]
    grad_scale: Tensor | None
    found_inf: Tensor | None
    weight_decay: Sequence[float]
    trust: Sequence[bool]
    beta1: float
    beta2: float
    eps: float
    max_norm: float
    bias_correction: bool
    clip_update: bool
    algorithm: str
