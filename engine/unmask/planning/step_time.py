"""Seconds of a training step.

On this machine, small steps are timed and the rest follows: one layer and two layers on a few documents give the time
of a layer and of everything else, and both grow with the tokens. The optimizer is timed by itself, on all parameters of
one layer and two, since it runs once a step.

    seconds = tokens / timed tokens x (rest + layers x layer) + optimizer

For a GPU by name there is only its data sheet: the operations of a step over `SHARE_OF_PEAK` of its peak. That is an
assumption and no measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from unmask.batch import PackedBatch
from unmask.config import RunConfig
from unmask.model import EncoderConfig
from unmask.planning.step_memory import example_batch, model_of
from unmask.train.logging.metrics import FlopCount
from unmask.train.optim import build_optimizer
from unmask.train.step import TrainingStep
from unmask_kernels import using

__all__ = ["SHARE_OF_PEAK", "StepTime", "from_peak", "timed"]

SHARE_OF_PEAK = 0.4
"""Share of a GPU's peak that is assumed where nothing can be measured."""

_TOKENS_ON_A_CPU = 1024
_ROUNDS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Seconds of a training step.

    Attributes:
        seconds: of a step on one process.
        source: where the number comes from, for people.
    """

    seconds: float
    source: str


def timed(
    config: RunConfig, encoder: EncoderConfig, lengths: Sequence[int], *, dtype: torch.dtype, device: torch.device
) -> StepTime:
    """Time small steps on `device` and return the seconds of a whole one.

    Args:
        config: the run.
        encoder: the sizes.
        lengths: of the documents of a micro-batch.
        dtype: of the activations.
        device: of this machine.
    """
    if device.type == "cpu":
        lengths = _first(lengths, _TOKENS_ON_A_CPU)
    tokens = sum(lengths)
    batch = example_batch(config, encoder, lengths).to(device)
    passes, updates = [], []
    with using(**config.kernels.named()):
        for layers in (1, 2):
            step = _step(config, replace(encoder, num_layers=layers), dtype, device)
            passes.append(_seconds(lambda step=step: step.accumulate([batch]), device))  # type: ignore[misc]
            updates.append(_seconds(lambda step=step: step.update(), device))  # type: ignore[misc]
    layer, update = (max(0.0, two - one) for one, two in (passes, updates))
    more = encoder.num_layers - 1
    a_pass, whole_update = passes[0] + more * layer, updates[0] + more * update
    return StepTime(
        seconds=config.train.tokens_per_step / tokens * a_pass + whole_update,
        source=f"from steps of 1 and 2 layers on {tokens:,} tokens, timed now",
    )


def from_peak(config: RunConfig, encoder: EncoderConfig, batch: PackedBatch, *, peak: float, gpu: str) -> StepTime:
    """Return the seconds of a step on a GPU by its peak operations per second."""
    names = [name for name in ("mlm", "clm", "nsp", "sop") if getattr(config.objective, name) > 0]
    count = FlopCount(encoder=encoder, mask_rate=config.masking.rate, objectives=names)
    operations = count.training(batch) * config.train.tokens_per_step / batch.real_tokens
    return StepTime(
        seconds=operations / (SHARE_OF_PEAK * peak),
        source=f"assumed: {SHARE_OF_PEAK:.0%} of the {peak / 1e12:,.0f} TFLOP/s of {gpu}; nothing was measured",
    )


def _first(lengths: Sequence[int], tokens: int) -> list[int]:
    """Return the first lengths that fit in so many tokens, at least one."""
    taken: list[int] = []
    for length in lengths:
        if taken and sum(taken) + length > tokens:
            break
        taken.append(length)
    return taken


def _step(config: RunConfig, encoder: EncoderConfig, dtype: torch.dtype, device: torch.device) -> TrainingStep:
    model, objectives = model_of(config, encoder, dtype)
    model = model.to(device)
    return TrainingStep(model=model, objectives=objectives, optimizer=build_optimizer(model, config.optimizer))


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the least time of a few calls, after one that is not timed."""
    best = float("inf")
    for round_ in range(_ROUNDS + 1):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if round_ > 0:
            best = min(best, time.perf_counter() - began)
    return best
