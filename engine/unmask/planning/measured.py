"""Time and memory of whole training steps that run here, beside which a plan can be checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from unmask.config import RunConfig
from unmask.model import EncoderConfig
from unmask.planning.devices import resident_bytes
from unmask.planning.lengths import micro_batch_lengths
from unmask.planning.step_memory import example_batch, model_of
from unmask.train.optim import build_optimizer
from unmask.train.step import TrainingStep
from unmask_kernels import using

__all__ = ["Measured", "measure"]

_STEPS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Steps that ran.

    Attributes:
        seconds: the least of a step.
        memory: most bytes of the process: on a CPU all that lies in RAM, on a GPU what PyTorch allocated there.
        steps: how many were timed, after one that was not.
    """

    seconds: float
    memory: int
    steps: int = _STEPS


def measure(
    config: RunConfig,
    encoder: EncoderConfig,
    lengths: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
    processes: int = 1,
) -> Measured:
    """Run whole steps on `device`, of documents of these lengths."""
    _forget_peak(device)
    model, objectives = model_of(config, encoder, dtype)
    model = model.to(device)
    step = TrainingStep(model=model, objectives=objectives, optimizer=build_optimizer(model, config.optimizer))
    tokens = config.stream.micro_batch_tokens
    batch = example_batch(config, encoder, micro_batch_lengths(lengths, tokens)).to(device)
    batches = [batch] * (config.train.tokens_per_step // tokens // processes)
    best = float("inf")
    with using(**config.kernels.named()):
        for number in range(_STEPS + 1):
            began = time.perf_counter()
            step(batches).loss.item()
            if number > 0:
                best = min(best, time.perf_counter() - began)
    return Measured(seconds=best, memory=_peak(device))


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        # the peak of a process begins anew where it is now
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) << 10
    return resident_bytes()
