"""The update by PyTorch's own kernels: fused AdamW where it does what is asked, else lists of operations ("foreach").

`torch._fused_adamw_` reads and writes each parameter, gradient and moment once. It has one learning rate and one weight
decay a call, so parameters that differ in them are further calls. What it lacks (LAMB, StableAdamW, no bias correction,
moments in another dtype than gradients) is composed of operations on whole lists, each of which reads and writes its
lists. Nothing is read on the host of a GPU; a skipped update writes what was there before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..precision import accumulation_dtype
from .arguments import Arguments

__all__ = ["step"]


def step(arguments: Arguments) -> None:
    """Update all parameters."""
    scale, skipped = arguments.grad_scale, arguments.found_inf
    if skipped is not None:
        skipped = (skipped != 0).float()
    if arguments.norm is not None:
        # 16 bits hold no sum of squares
        norms = torch._foreach_norm(list(arguments.grads), 2, _wide(arguments))
        norm = torch.linalg.vector_norm(torch.stack(list(norms)))
        norm = (norm if scale is None else norm / scale).float()
        arguments.norm.copy_(norm)
        broken = 1.0 - torch.isfinite(norm).float()
        skipped = broken if skipped is None else torch.maximum(broken, skipped)
        clip = (norm / arguments.max_norm).clamp(min=1.0)
        scale = clip if scale is None else scale * clip
    if _is_plain_adamw(arguments):
        _fused(arguments, scale, skipped)
    else:
        _composed(arguments, scale, skipped)
    if arguments.copies:
        torch._foreach_copy_(list(arguments.copies), list(arguments.params))


def _wide(arguments: Arguments) -> torch.dtype:
    return accumulation_dtype(arguments.params[0].dtype)


def _is_plain_adamw(arguments: Arguments) -> bool:
    """Whether PyTorch's fused kernel computes it."""
    plain = arguments.algorithm == "adamw" and arguments.bias_correction and not arguments.clip_update
    return plain and arguments.params[0].device.type in ("cpu", "cuda", "mps")


def _fused(arguments: Arguments, scale: Tensor | None, skipped: Tensor | None) -> None:
    params, steps = arguments.params, arguments.steps
    # the kernel takes one dtype
    grads = [grad.to(params[0].dtype) for grad in arguments.grads]
    alike: dict[tuple[int, float], list[int]] = {}
    for index, (rate, decay) in enumerate(zip(arguments.lr, arguments.weight_decay, strict=True)):
        alike.setdefault((id(rate), decay), []).append(index)
    torch._foreach_add_(list(steps), 1)
    for (_, decay), places in alike.items():
        torch._fused_adamw_(
            [params[i] for i in places],
            [grads[i] for i in places],
            [arguments.exp_avg[i] for i in places],
            [arguments.exp_avg_sq[i] for i in places],
            [],
            [steps[i] for i in places],
            lr=arguments.lr[places[0]],
            beta1=arguments.beta1,
            beta2=arguments.beta2,
            weight_decay=decay,
            eps=arguments.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=scale,
            found_inf=skipped,
        )
    if skipped is not None:
        torch._foreach_sub_(list(steps), [skipped] * len(steps))


def _composed(arguments: Arguments, scale: Tensor | None, skipped: Tensor | None) -> None:
    wide, eps = _wide(arguments), arguments.eps
    on_cpu = arguments.params[0].device.type == "cpu"
    if on_cpu and skipped is not None and bool(skipped != 0):
        return
    # elsewhere a skipped update is computed with gradients of zero, and with weights and rates of zero
    kept = None if on_cpu or skipped is None else (1.0 - skipped).to(wide)
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
        norms = torch._foreach_norm(grads)
        rates = [
            rate / (norm / math.sqrt(max(1, grad.numel()))).clamp(min=1.0)
            for rate, norm, grad in zip(rates, norms, grads, strict=True)
        ]
    torch._foreach_add_(roots, eps)
    directions = list(torch._foreach_div(directions, roots))
    params = [param.to(wide) for param in arguments.params]
    torch._foreach_add_(directions, torch._foreach_mul(params, list(arguments.weight_decay)))
    if arguments.algorithm == "lamb":
        ratios = _trust_ratios(params, directions)
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


def _trust_ratios(params: list[Tensor], directions: list[Tensor]) -> tuple[Tensor, ...]:
    sizes, updates = (torch.stack(list(torch._foreach_norm(each))) for each in (params, directions))
    usable = (sizes > 0) & (updates > 0) & sizes.isfinite() & updates.isfinite()
    return torch.where(usable, sizes / updates, 1.0).unbind()


def _write(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write values that were computed in another dtype back; `to` gives the tensor itself if the dtype is the same."""
    if tensors[0] is not values[0]:
        torch._foreach_copy_(list(tensors), list(values))
