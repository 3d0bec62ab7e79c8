"""Cases of `optimizer`: a few updates of parameters that lie one behind the other in a flat tensor.

A parameter of an odd size leaves those behind it misaligned: they begin at any multiple of an element. So the cases
have every alignment that a view may have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from unmask_kernels.optimizer.arguments import Arguments
from unmask_kernels.optimizer.op import step

from .inputs import Case

__all__ = ["CASES", "optimizer_case", "plain_optimizer", "run_updates", "updates_of"]

Results = tuple[Tensor, ...]

# the first is exact in fp32
_RATE, _DECAY = 1 / 64, 0.1


def optimizer_case(
    name: str,
    sizes: Sequence[int],
    *,
    updates: int = 3,
    algorithm: str = "adamw",
    bias_correction: bool = True,
    clip_update: bool = False,
    max_norm: float | None = None,
    grad_scale: float | None = None,
    copies: bool = False,
    copy_dtype: str = "bfloat16",
    adapted: Sequence[bool] | None = None,
    spoilt: float | None = None,
    fp32: bool = False,
    seed: int = 11,
) -> Case:
    """Return a case. Its dtype is that of the gradients; parameters and moments are fp32.

    Args:
        name: of the case.
        sizes: elements of each parameter.
        updates: number of updates, each with other gradients.
        algorithm: "adamw" or "lamb".
        bias_correction: whether the moments are corrected.
        clip_update: whether large updates are clipped.
        max_norm: global norm to clip at; None clips nothing.
        grad_scale: what the gradients were multiplied by; None for 1.
        copies: whether copies of the parameters are written.
        copy_dtype: theirs, "bfloat16" or "float16".
        adapted: which parameters have weight decay and a trust ratio. Default: every other one.
        spoilt: a value, such as NaN, in the gradients of the second update.
        fp32: whether gradients stay fp32 in every dtype, as those of fp32 parameters do.
        seed: of the values.
    """

    def build(generator: torch.Generator) -> dict[str, Any]:
        generator.manual_seed(seed)
        total = sum(sizes)
        gradients = torch.randn(updates, total, generator=generator)
        # from update to update a parameter's gradients are of other sizes, so that clipped updates occur
        gradients *= torch.logspace(-1, 1, updates)[:, None]
        if spoilt is not None and total > 0:
            gradients[1, total // 2] = spoilt
        return {
            "weights": torch.randn(total, generator=generator),
            "gradients": gradients,
            "sizes": tuple(sizes),
            "algorithm": algorithm,
            "bias_correction": bias_correction,
            "clip_update": clip_update,
            "max_norm": max_norm,
            "grad_scale": grad_scale,
            "copies": copy_dtype if copies else None,
            "adapted": tuple(index % 2 == 1 for index in range(len(sizes))) if adapted is None else tuple(adapted),
        }

    wide = ("weights", "gradients") if fp32 else ("weights",)
    return Case(name=name, build=build, parameters=wide, differentiable=False)


def updates_of(
    weights: Tensor,
    gradients: Tensor,
    *,
    sizes: Sequence[int],
    algorithm: str,
    bias_correction: bool,
    clip_update: bool,
    max_norm: float | None,
    grad_scale: float | None,
    copies: str | None,
    adapted: Sequence[bool],
) -> list[Arguments]:
    """Return the records of the updates of a case, in their order, on copies of its tensors, which they share."""
    flat = {"params": weights.clone(), "exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)}
    steps = torch.zeros(len(sizes), device=weights.device)
    rates = torch.full((2,), _RATE, device=weights.device).unbind()
    narrow = None if copies is None else torch.zeros_like(weights, dtype=getattr(torch, copies))
    records = []
    for gradient in gradients:
        # a backend may leave gradients divided
        given = gradient * (1.0 if grad_scale is None else grad_scale)
        record = Arguments(
            **{name: values.split(list(sizes)) for name, values in flat.items()},
            grads=given.split(list(sizes)),
            steps=steps.unbind(),
            copies=[] if narrow is None else narrow.split(list(sizes)),
            norm=None if max_norm is None else torch.full((), math.nan, device=weights.device),
            lr=[rates[int(one)] for one in adapted],
            grad_scale=None if grad_scale is None else torch.full((), grad_scale, device=weights.device),
            found_inf=None,
            weight_decay=[_DECAY * one for one in adapted],
            trust=adapted,
            beta1=0.9,
            beta2=0.99,
            eps=1e-6,
            max_norm=math.inf if max_norm is None else max_norm,
            bias_correction=bias_correction,
            clip_update=clip_update,
            algorithm=algorithm,
        )
        records.append(record)
    return records


def run_updates(weights: Tensor, gradients: Tensor, *, backend: str | None = None, **settings: Any) -> Results:
    """Run the updates of a case on copies of its tensors.

    Returns:
        Parameters, first and second moments, numbers of updates, copies if there are any, and norms if they are wanted;
        each flat, over all parameters or updates.
    """
    records = updates_of(weights, gradients, **settings)
    for record in records:
        step(record, backend=backend)
    last = records[-1]
    results = [torch.cat(list(each)) for each in (last.params, last.exp_avg, last.exp_avg_sq)]
    results.append(torch.stack(list(last.steps)))
    if last.copies:
        results.append(torch.cat(list(last.copies)))
    if last.norm is not None:
        results.append(torch.stack([cast(Tensor, record.norm) for record in records]))
    return tuple(results)


def plain_optimizer(
    weights: Tensor,
    gradients: Tensor,
    *,
    sizes: Sequence[int],
    algorithm: str,
    bias_correction: bool,
    clip_update: bool,
    max_norm: float | None,
    grad_scale: float | None,
    copies: str | None,
    adapted: Sequence[bool],
) -> Results:
    """The same updates as papers write them, a parameter at a time, in the dtype of the parameters."""
    beta1, beta2, eps, lr = 0.9, 0.99, 1e-6, _RATE
    params = [part.clone() for part in weights.split(list(sizes))]
    firsts, seconds = ([torch.zeros_like(param) for param in params] for _ in range(2))
    count, norms = 0, []
    for gradient in gradients:
        scaled = gradient if grad_scale is None else gradient * grad_scale
        whole = scaled.to(weights.dtype) / (1.0 if grad_scale is None else grad_scale)
        if max_norm is not None:
            norm = whole.norm()
            norms.append(norm.float())
            if not norm.isfinite():
                continue
            whole = whole * min(1.0, max_norm / float(norm))
        count += 1
        corrected = [1 - beta**count if bias_correction else 1.0 for beta in (beta1, beta2)]
        for index, g in enumerate(whole.split(list(sizes))):
            decay = _DECAY * adapted[index]
            firsts[index] = beta1 * firsts[index] + (1 - beta1) * g
            seconds[index] = beta2 * seconds[index] + (1 - beta2) * g**2
            first, second = firsts[index] / corrected[0], seconds[index] / corrected[1]
            update = first / (second.sqrt() + eps)
            rate = lr
            if algorithm == "lamb":
                update = update + decay * params[index]
                sizes_of = float(params[index].norm()), float(update.norm())
                rate *= sizes_of[0] / sizes_of[1] if adapted[index] and min(sizes_of) > 0 else 1.0
                params[index] = params[index] - rate * update
                continue
            if clip_update and g.numel():
                rate /= max(1.0, float((g**2 / second.clamp(min=eps**2)).mean().sqrt()))
            params[index] = params[index] * (1 - rate * decay) - rate * update
    steps = torch.full((len(sizes),), float(count), device=weights.device)
    results = [*(torch.cat(each) for each in (params, firsts, seconds)), steps]
    if copies is not None:
        results.append(results[0].to(getattr(torch, copies)))
    if norms:
        results.append(torch.stack(norms))
    return tuple(results)


_SIZES = (64, 1, 7, 130, 0, 33, 1025)

CASES = [
    optimizer_case("adamw", _SIZES),
    optimizer_case("adamw-original", _SIZES, bias_correction=False, max_norm=1.0),
    optimizer_case("adamw-clipped", _SIZES, max_norm=3.0, copies=True),
    optimizer_case("adamw-scaled", _SIZES, grad_scale=128.0, max_norm=1e9),
    optimizer_case("adamw-skipped", _SIZES, max_norm=math.inf, spoilt=math.nan),
    optimizer_case("stable", _SIZES, clip_update=True, updates=4),
    optimizer_case("stable-clipped", _SIZES, clip_update=True, max_norm=2.0, copies=True),
    optimizer_case("lamb", _SIZES, algorithm="lamb"),
    optimizer_case("lamb-clipped", _SIZES, algorithm="lamb", max_norm=1.0, copies=True),
    optimizer_case("lamb-original", _SIZES, algorithm="lamb", bias_correction=False, grad_scale=64.0),
    optimizer_case("lamb-skipped", _SIZES, algorithm="lamb", max_norm=1.0, spoilt=math.inf),
    optimizer_case("one", (1, 1), algorithm="lamb", max_norm=1.0, updates=1),
    optimizer_case("many", (5,) * 300, max_norm=1.0),
    optimizer_case("large", (70_001, 3), algorithm="lamb", copies=True),
]
"""Every algorithm with and without what may be asked for besides, odd sizes, an empty one, many small ones."""
