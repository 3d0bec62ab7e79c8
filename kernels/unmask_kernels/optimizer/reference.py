"""AdamW (Loshchilov & Hutter, arXiv:1711.05101), LAMB (You et al. 2020, arXiv:1904.00962) and StableAdamW (Wortsman et
al. 2023, arXiv:2304.13013), the definition. For each parameter p with its gradient g, moments m and v, step count t:

    g       <- g / grad_scale
    norm     = || all g ||
    g       <- g / max(norm / max_norm, 1)
    t       <- t + 1
    m       <- m + (1 - beta1) (g - m)
    v       <- beta2 v + (1 - beta2) g^2
    m', v'   = m / (1 - beta1^t), v / (1 - beta2^t)         without bias correction: m, v
    u        = m' / (sqrt(v') + eps)

    adamw    p <- p - rate (u + weight_decay p)             rate = lr
             with clip_update                               rate = lr / max(1, rms(g / max(sqrt(v'), eps)))
    lamb     p <- p - lr ratio (u + weight_decay p)         ratio = ||p|| / ||u + weight_decay p||

The ratio is 1 without trust, and where one of the two norms is 0 or not finite. Nothing but `norm` changes if found_inf
is not 0, or if the norm is wanted and not finite. Computed in fp32, in fp64 for fp64 parameters. It runs anywhere, a
parameter at a time, and reads values on the host.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..precision import accumulation_dtype
from .arguments import Arguments

__all__ = ["step"]


def step(arguments: Arguments) -> None:
    """Update one parameter after the other."""
    if not arguments.params:
        return
    wide = accumulation_dtype(arguments.params[0].dtype)
    scale = 1.0 if arguments.grad_scale is None else arguments.grad_scale.to(wide)
    grads = [grad.to(wide) / scale for grad in arguments.grads]
    skipped = arguments.found_inf is not None and bool(arguments.found_inf != 0)
    if arguments.norm is not None:
        norm = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
        arguments.norm.copy_(norm)
        skipped |= not bool(torch.isfinite(norm))
        grads = [grad / (norm / arguments.max_norm).clamp(min=1.0) for grad in grads]
    if skipped:
        return
    for index, grad in enumerate(grads):
        _update(arguments, index, grad)


def _update(arguments: Arguments, index: int, grad: Tensor) -> None:
    beta1, beta2, eps = arguments.beta1, arguments.beta2, arguments.eps
    wide = grad.dtype
    param = arguments.params[index].to(wide)
    count = arguments.steps[index].add_(1).to(torch.float64)
    first = arguments.exp_avg[index].to(wide)
    first = first + (1 - beta1) * (grad - first)
    second = beta2 * arguments.exp_avg_sq[index].to(wide) + (1 - beta2) * grad.square()
    arguments.exp_avg[index].copy_(first)
    arguments.exp_avg_sq[index].copy_(second)
    if arguments.bias_correction:
        first = first / (1 - beta1**count).to(wide)
        second = second / (1 - beta2**count).to(wide)
    direction = first / (second.sqrt() + eps) + arguments.weight_decay[index] * param
    rate = arguments.lr[index].to(wide)
    if arguments.algorithm == "lamb" and arguments.trust[index]:
        rate = rate * _trust_ratio(param, direction)
    elif arguments.algorithm == "adamw" and arguments.clip_update and grad.numel() > 0:
        rate = rate / (grad / second.sqrt().clamp(min=eps)).square().mean().sqrt().clamp(min=1.0)
    arguments.params[index].copy_(param - rate * direction)
    if arguments.copies:
        arguments.copies[index].copy_(arguments.params[index])


def _trust_ratio(param: Tensor, direction: Tensor) -> float:
    norms = [float(x.square().sum().sqrt()) for x in (param, direction)]
    if min(norms) > 0.0 and all(map(math.isfinite, norms)):
        return norms[0] / norms[1]
    return 1.0
