"""LAMB, StableAdamW and AdamW without bias correction for CPUs: one parameter after the other, which stays in cache.

On a CPU a value is read at no cost, so rates and ratios are numbers, and a skipped update returns at once. Moments and
parameters are updated in place, with one further tensor of a parameter's size, or two.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..precision import accumulation_dtype
from .arguments import Arguments

__all__ = ["update_each"]


def update_each(arguments: Arguments, scale: Tensor | None, skipped: Tensor | None) -> None:
    """Update all parameters; the arguments are those of `update_lists`."""
    if skipped is not None and bool(skipped):
        return
    divisor = 1.0 if scale is None else float(scale)
    for index in range(len(arguments.params)):
        _update(arguments, index, divisor)


def _update(arguments: Arguments, index: int, divisor: float) -> None:
    wide, eps, decay = accumulation_dtype(arguments.params[0].dtype), arguments.eps, arguments.weight_decay[index]
    held = (arguments.params[index], arguments.exp_avg[index], arguments.exp_avg_sq[index])
    param, first, second = (x.to(wide) for x in held)
    grad = arguments.grads[index].to(wide)
    if divisor != 1.0:
        grad = grad / divisor
    count = float(arguments.steps[index].add_(1))
    first.lerp_(grad, 1 - arguments.beta1)
    second.mul_(arguments.beta2).addcmul_(grad, grad, value=1 - arguments.beta2)
    of_first, of_second = 1.0, 1.0
    if arguments.bias_correction:
        of_first, of_second = 1 - arguments.beta1**count, 1 - arguments.beta2**count
    root = second.sqrt().div_(math.sqrt(of_second))
    rate = float(arguments.lr[index])
    if arguments.clip_update and grad.numel() > 0:
        rms = float(torch.linalg.vector_norm(grad / root.clamp(min=eps))) / math.sqrt(grad.numel())
        rate /= max(1.0, rms)
    direction = torch.div(first, root.add_(eps), out=root)
    if of_first != 1.0:
        direction.div_(of_first)
    if decay:
        direction.add_(param, alpha=decay)
    if arguments.algorithm == "lamb" and arguments.trust[index]:
        rate *= _trust_ratio(param, direction)
    param.sub_(direction, alpha=rate)
    for target, value in zip(held, (param, first, second), strict=True):
        if target is not value:
            target.copy_(value)


def _trust_ratio(param: Tensor, direction: Tensor) -> float:
    size, update = (float(torch.linalg.vector_norm(x)) for x in (param, direction))
    return size / update if 0.0 < size < math.inf and 0.0 < update < math.inf else 1.0
