"""LAMB, StableAdamW and AdamW without bias correction on lists of tensors ("foreach"), for GPUs.

Each operation reads and writes whole lists, in few launches. Nothing is read on the host: a skipped update is computed
with gradients of zero, and with weights and rates of zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..precision import accumulation_dtype
from .arguments import Arguments
from .shards import Shards

__all__ = ["update_lists"]


def update_lists(
    arguments: Arguments, scale: Tensor | None, skipped: Tensor | None, shards: Shards | None = None
) -> None:
    """Update all parameters.

    Args:
        arguments: the call; its norm, grad_scale and found_inf have been read.
        scale: what the gradients are divided by, () fp32, or None for 1.
        skipped: 1 if the update is skipped, else 0, () fp32, or None for 0.
        shards: how the parameters are cut, if the call has parts of them; None for whole parameters.
    """
    wide, eps = accumulation_dtype(arguments.params[0].dtype), arguments.eps
    kept = None if skipped is None else (1.0 - skipped).to(wide)
    grads = [grad.to(wide) for grad in arguments.grads]
    if scale is not None:
        grads = list(torch._foreach_div(grads, scale.to(wide)))
    if kept is not None:
        grads = [torch.where(kept > 0, grad, 0.0) for grad in grads]
    counts = torch.stack(list(arguments.steps)).to(wide) + 1
    for count in arguments.steps:
        count.add_(1 if kept is None else kept)
    firsts = _averaged(arguments.exp_avg, grads, arguments.beta1, kept)
    seconds = _averaged(arguments.exp_avg_sq, list(torch._foreach_mul(grads, grads)), arguments.beta2, kept)
    roots, directions = list(torch._foreach_sqrt(seconds)), firsts
    if arguments.bias_correction:
        torch._foreach_div_(roots, list(_correction(arguments.beta2, counts).sqrt().unbind()))
        directions = list(torch._foreach_div(directions, list(_correction(arguments.beta1, counts).unbind())))
    rates = [rate.to(wide) for rate in arguments.lr]
    if arguments.clip_update:
        grads = list(torch._foreach_div(grads, torch._foreach_clamp_min(roots, eps)))
        elements = [grad.numel() for grad in grads] if shards is None else list(shards.counts)
        rates = [
            rate / (norm / math.sqrt(max(1, count))).clamp(min=1.0)
            for rate, norm, count in zip(rates, _norms(grads, shards).unbind(), elements, strict=True)
        ]
    torch._foreach_add_(roots, eps)
    directions = list(torch._foreach_div(directions, roots))
    params = [param.to(wide) for param in arguments.params]
    torch._foreach_add_(directions, torch._foreach_mul(params, list(arguments.weight_decay)))
    if arguments.algorithm == "lamb":
        ratios = _trust_ratios(_norms(params, shards), _norms(directions, shards))
        rates = [
            rate * ratio if trusted else rate
            for rate, ratio, trusted in zip(rates, ratios, arguments.trust, strict=True)
        ]
    if kept is not None:
        rates = [rate * kept for rate in rates]
    torch._foreach_mul_(directions, rates)
    torch._foreach_sub_(params, directions)
    _write(arguments.params, params)


def _averaged(moments: Sequence[Tensor], values: list[Tensor], beta: float, kept: Tensor | None) -> list[Tensor]:
    """Move the moments towards the values by 1 - beta, and return them in the dtype of the values."""
    held = [moment.to(values[0].dtype) for moment in moments]
    change = list(torch._foreach_sub(values, held))
    torch._foreach_mul_(change, 1 - beta if kept is None else (1 - beta) * kept)
    torch._foreach_add_(held, change)
    _write(moments, held)
    return held


def _correction(beta: float, counts: Tensor) -> Tensor:
    """1 - beta^counts; as the power is near 1 at first, a difference would lose digits."""
    return -torch.expm1(counts * (math.log(beta) if beta > 0.0 else -math.inf))


def _norms(tensors: list[Tensor], shards: Shards | None) -> Tensor:
    """Norms of the whole tensors, (N,)."""
    norms = torch.stack(list(torch._foreach_norm(tensors)))
    return norms if shards is None else shards.norms(norms)


def _trust_ratios(sizes: Tensor, updates: Tensor) -> tuple[Tensor, ...]:
    usable = (sizes > 0) & (updates > 0) & sizes.isfinite() & updates.isfinite()
    return torch.where(usable, sizes / updates, 1.0).unbind()


def _write(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write values that were computed in another dtype back; `to` gives the tensor itself if the dtype is the same."""
    if tensors[0] is not values[0]:
        torch._foreach_copy_(list(tensors), list(values))
