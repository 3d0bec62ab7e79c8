"""The update by PyTorch's own kernels: fused AdamW where it does what is asked, else composed of operations.

`torch._fused_adamw_` reads and writes each parameter, gradient and moment once. It has one learning rate and one weight
decay a call, so parameters that differ in them are further calls. What it lacks is composed: LAMB, StableAdamW and
AdamW without bias correction, on a GPU of operations on whole lists, on a CPU a parameter at a time. Nothing is read on
the host of a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import accumulation_dtype
from ._torch_lists import update_lists
from ._torch_loop import update_each
from .arguments import Arguments
from .shards import Shards

__all__ = ["step"]


def step(arguments: Arguments, shards: Shards | None = None) -> None:
    """Update all parameters, or the parts of them that lie in this process."""
    scale, skipped = arguments.grad_scale, arguments.found_inf
    if skipped is not None:
        skipped = (skipped != 0).float()
    if arguments.norm is not None:
        # 16 bits hold no sum of squares
        norms = torch._foreach_norm(list(arguments.grads), 2, _wide(arguments))
        whole = torch.stack(list(norms))
        norm = torch.linalg.vector_norm(whole if shards is None else shards.norms(whole))
        norm = (norm if scale is None else norm / scale).float()
        arguments.norm.copy_(norm)
        broken = 1.0 - torch.isfinite(norm).float()
        skipped = broken if skipped is None else torch.maximum(broken, skipped)
        clip = (norm / arguments.max_norm).clamp(min=1.0)
        scale = clip if scale is None else scale * clip
    if _is_plain_adamw(arguments):
        _fused(arguments, scale, skipped)
    elif arguments.params[0].device.type == "cpu" and shards is None:
        update_each(arguments, scale, skipped)
    else:
        update_lists(arguments, scale, skipped, shards)
    if arguments.copies:
        torch._foreach_copy_(list(arguments.copies), list(arguments.params))


def _wide(arguments: Arguments) -> torch.dtype:
    return accumulation_dtype(arguments.params[0].dtype)


def _is_plain_adamw(arguments: Arguments) -> bool:
    """Whether PyTorch's fused kernel computes it."""
    plain = arguments.algorithm == "adamw" and arguments.bias_correction and not arguments.clip_update
    return plain and arguments.params[0].device.type in ("cpu", "cuda", "mps", "meta")


def _fused(arguments: Arguments, scale: Tensor | None, skipped: Tensor | None) -> None:
    params, steps = arguments.params, arguments.steps
    grads = arguments.grads
    if grads[0].dtype != params[0].dtype:
        # the kernel takes one dtype
        grads = [grad.to(params[0].dtype) for grad in grads]
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
