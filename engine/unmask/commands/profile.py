"""`profile`: where the time of a training step goes, by operation, and a trace of a few steps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as profiler

from unmask.config import load_config
from unmask.config.settings import check_argument
from unmask.errors import RunError
from unmask.planning.operations import DATA, STEP, Operation, operations_of, shares_of
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.data import phase_at
from unmask.train.distilled import open_teacher, with_teachers_tokenizer
from unmask.train.initial import InitialCheckpoint
from unmask.train.logging.progress import Display
from unmask.train.logging.provenance import machine
from unmask.train.optim import set_learning_rate
from unmask.train.pretrain import build_trainer
from unmask.train.trainer import Trainer
from unmask_kernels import using
from unmask_kernels.tune.record import read_tuning
from unmask_kernels.tuned import using_values

__all__ = ["Profile", "profile"]

# steps before the first that counts: kernels are compiled and the loader fills its queue
_WARM = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Where the time of a step goes.

    Attributes:
        device: the processor or GPU.
        dtype: of the activations.
        tokens: real tokens of a step.
        steps: how many were recorded.
        seconds: of a step without the profiler.
        profiled: of a step under the profiler, of which the shares are.
        families: own time, share and calls of each family of operations, the largest first.
        operations: the same of each operation.
        trace: the file for Perfetto or chrome://tracing.
    """

    device: str
    dtype: str
    tokens: float
    steps: int
    seconds: float
    profiled: float
    families: list[Operation]
    operations: list[Operation]
    trace: Path

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain values."""
        return asdict(self) | {"trace": str(self.trace)}


def profile(
    recipe_or_yaml: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    steps: int = 5,
    trace: str | Path = "trace.json",
) -> Profile:
    """Run some training steps under PyTorch's profiler, and keep nothing of them but the trace.

    The steps are those with which a run of these settings begins: its text, its batches, its model and its optimizer.

    Example:
        >>> import unmask
        >>> found = unmask.profile("tiny", {"data.store": "store"}, steps=2, trace="trace.json")
        >>> found.families[0].share < 1
        True

    Args:
        recipe_or_yaml: recipe or YAML file, as for `load_config`.
        settings: settings laid over it.
        steps: how many steps to record, after some that are not.
        trace: file for the trace.
    Raises:
        SettingError: `steps` is less than 1; a `ValueError`.
        ConfigError: a setting is wrong.
        RunError: the trace cannot be written, or the run has fewer steps than these.
        CorpusError: the text cannot be used.
        StoreError: the store cannot be used.
    """
    check_argument("profile", "steps", int, steps, ge=1)
    config = load_config(recipe_or_yaml, settings or {})
    place = Path(trace)
    if place.is_dir() or not place.absolute().parent.is_dir():
        reason = "is a folder" if place.is_dir() else "has no folder to lie in"
        raise RunError(f"profile: {place} {reason}, so the trace cannot be written; give --trace another place")
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    with tempfile.TemporaryDirectory(prefix="unmask-profile-") as scratch:
        folder = Path(scratch)
        here, initial = replace(config, run=scratch), None
        if config.init.from_ is not None:
            initial = InitialCheckpoint.open(here)
            here = initial.with_tokenizer(here)
        teacher = None
        if here.distillation.teacher is not None:
            teacher = open_teacher(here.distillation.teacher, folder)
            here = with_teachers_tokenizer(here, teacher)
        checkpoints = Checkpoints(folder=folder / "checkpoints")
        trainer = build_trainer(here, folder, checkpoints, Display(), initial=initial, teacher=teacher)
        _require_steps(trainer, steps)
        tuned = {} if config.kernels.tuned == "never" else read_tuning(trainer.state.device).values()
        with using(**config.kernels.named()), using_values(tuned):
            return _record(trainer, steps, place)


def _require_steps(trainer: Trainer, steps: int) -> None:
    needed, known = _WARM + 2 * steps, trainer.data.num_steps
    if trainer.deadline is None and needed > known:
        raise RunError(
            f"profile: the run must have {needed} steps, {_WARM} to warm up and twice --steps, and it has {known}; "
            f"give --train.steps {needed}, or fewer --steps"
        )


def _record(trainer: Trainer, steps: int, trace: Path) -> Profile:
    on_gpu = trainer.state.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    trainer.state.model.train()
    with closing(_Steps(trainer)) as run:
        run.some(_WARM)
        seconds = run.some(steps)
        before = run.tokens
        with profiler(activities=activities) as recorded:
            profiled = run.some(steps)
        tokens = run.tokens - before
    recorded.export_chrome_trace(str(trace))
    events = [event for event in recorded.events() or () if event.device_type == torch.autograd.DeviceType.CPU]
    operations = operations_of(events, steps=steps, seconds=profiled, on_gpu=on_gpu)
    facts = machine(trainer.state.device, trainer.state.model.encoder.compute_dtype)
    return Profile(
        device=facts["device"],
        dtype=facts["activations"],
        tokens=tokens / steps,
        steps=steps,
        seconds=seconds,
        profiled=profiled,
        families=shares_of(operations),
        operations=operations,
        trace=trace,
    )


class _Steps:
    """The first steps of a run, one after the other."""

    def __init__(self, trainer: Trainer) -> None:
        self.tokens = 0
        self._trainer = trainer
        self._batches = trainer.data.steps(0)
        self._done = 0

    def some(self, count: int) -> float:
        """Do so many steps, and return the seconds of one."""
        device = self._trainer.state.device
        _wait(device)
        began = time.perf_counter()
        for _ in range(count):
            with record_function(STEP):
                self._step()
        _wait(device)
        return (time.perf_counter() - began) / count

    def close(self) -> None:
        self._batches.close()

    def _step(self) -> None:
        trainer = self._trainer
        phase = phase_at(trainer.data.phases, self._done)
        trainer.state.model.encoder.dropout_seed.fill_(phase.seed)
        set_learning_rate(trainer.state.optimizer, trainer.schedule(self._done))
        with record_function(DATA):
            batches = next(self._batches)
            moved = [trainer.data.to_device(batch, phase, trainer.state.device) for batch in batches]
        trainer.take_step(moved)
        self.tokens += sum(batch.real_tokens for batch in batches)
        self._done += 1


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
