"""The training step as two CUDA graphs: one for a micro-batch, one for the update.

    counts <- predictions of all micro-batches          launched, not recorded
    for each micro-batch:
        buffers <- micro-batch                          copies, in place
        replay: forward, loss, backward; gradients, sums and hits add up
    replay: norm, clipping, update

A replay launches everything that the step has recorded by one call of the host, on the same memory, whatever documents
lie in it. What changes from step to step is read from tensors: the batch, the counts, the learning rate, step counts,
the seed of dropout, the loss scale. The gradients of several micro-batches add up in tensors that are allocated before
the recording and set to zero in the update. In a step of one micro-batch, the update reads them where the backward
writes them.

The first step of each form of batch runs without graphs: kernels are compiled there, and the optimizer makes its state.
Before the next one, both are recorded, which computes nothing. A replay of the micro-batch is compared with the same
micro-batch without a graph, and a recording that differs is not used.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from unmask.batch import PackedBatch
from unmask.config import RunConfig
from unmask.errors import ConfigError, RunError
from unmask.train.batch_buffers import BatchBuffers, Form, form_of
from unmask.train.step import StepReport, TrainingStep

__all__ = ["CudaRecorder", "GraphedStep", "Recorder", "may_use_graphs"]

_log = logging.getLogger(__name__)

# between a replay and the step itself, relative
_TOLERANCE = 0.02


class Recorder(Protocol):
    """What records the work of a device; its recordings replay in the order in which they were made."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record `work` without computing it, and return what replays it."""


class CudaRecorder:
    """Records CUDA graphs that share memory for what lives inside a replay."""

    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture a graph of what `work` launches.

        Raises:
            RuntimeError: something in it waits for the device.
        """
        graph = torch.cuda.CUDAGraph()
        # a thread that writes a checkpoint may use the device meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        self._pool = graph.pool()
        return graph.replay


def may_use_graphs(config: RunConfig, device: torch.device, world_size: int) -> bool:
    """Return whether the steps of a run are to be recorded.

    With `train.graph: auto`, a run on a GPU says why they are not.

    Raises:
        ConfigError: `train.graph` is `require`, and they cannot be.
    """
    asked = config.train.graph
    if asked == "never" or (asked == "auto" and device.type != "cuda"):
        return False
    reason = _obstacle(config, device, world_size)
    if reason is not None and asked == "require":
        raise ConfigError(
            f"config: train.graph is 'require', but {reason}; give --train.graph auto to train without graphs"
        )
    if reason is not None:
        _log.info(f"train.graph: steps run without CUDA graphs, because {reason}")
    return reason is None


def _obstacle(config: RunConfig, device: torch.device, world_size: int) -> str | None:
    """Return why the steps of a run cannot be recorded; None if they can."""
    if device.type != "cuda":
        return f"the run trains on {device.type}, and CUDA graphs need a CUDA device"
    if world_size > 1:
        return f"the gradients of {world_size} processes are summed while the backward pass goes on"
    if config.distillation.teacher is not None:
        return "the run learns from a teacher, and the losses of attention read lengths on the host"
    if config.optimizer.name == "muon":
        return "optimizer.name is 'muon', which waits for the device"
    if config.train.activation_checkpointing:
        return "train.activation_checkpointing is true, which reads the state of random generators in each layer"
    return None


class GraphedStep:
    """A `TrainingStep` that is recorded and replayed.

    Args:
        step: the step, of one process.
        recorder: makes the recorder of a form of batch.
        required: whether a step that cannot be recorded is an error; else it runs without graphs, and a message says
            why.
    """

    def __init__(
        self, step: TrainingStep, recorder: Callable[[], Recorder] = CudaRecorder, *, required: bool = False
    ) -> None:
        self._step = step
        self._new_recorder = recorder
        self._required = required
        self._recordable = True
        self._seen: tuple[Form, bool] | None = None
        self._recorded: _Recorded | None = None

    def __call__(self, batches: Sequence[PackedBatch]) -> StepReport:
        """Do what the step does.

        Raises:
            RunError: the step cannot be recorded, and has to be.
        """
        form, several = form_of(batches[0]), len(batches) > 1
        alike = all(form_of(batch) == form for batch in batches[1:])
        if not (self._recordable and alike):
            return self._step(batches)
        if self._seen != (form, several):
            # memory of the recording before, if there is one, is free for this one
            self._seen, self._recorded = (form, several), None
            return self._step(batches)
        if self._recorded is None:
            self._recorded = self._record(batches[0], several=several)
        return self._step(batches) if self._recorded is None else self._recorded(batches)

    def _record(self, example: PackedBatch, *, several: bool) -> "_Recorded | None":
        try:
            return _Recorded(self._step, example, self._new_recorder(), several=several)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            if self._required:
                raise RunError(
                    f"run: train.graph is 'require', but the step cannot be recorded as a CUDA graph ({reason}); mend "
                    "that, or give --train.graph auto"
                ) from error
            _log.info(f"train.graph: steps run without CUDA graphs, because recording one failed ({reason})")
            self._recordable = False
            return None


class _Recorded:
    """The recordings of a form of batch, and the tensors that they read and write.

    Args:
        step: what is recorded.
        example: a batch of the form.
        recorder: what records.
        several: whether a step has several micro-batches.
    """

    def __init__(self, step: TrainingStep, example: PackedBatch, recorder: Recorder, *, several: bool) -> None:
        self._step = step
        self._parameters = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
        self._buffers = BatchBuffers(example)
        self._counts = step.count([example])
        self._sums, self._correct = torch.zeros_like(self._counts), torch.zeros_like(self._counts)
        # outside of a recording, so that libraries may load kernels and allocate
        first, sums, _ = self._differentiate()
        reached = [parameter for parameter, each in zip(self._parameters, first, strict=True) if each is not None]
        found = [each for each in first if each is not None]
        norm = get_total_norm(found)
        self._totals = list(map(torch.zeros_like, found)) if several else []
        self._gradients = self._totals
        del first, found
        self._replay_micro_batch = recorder.record(self._micro_batch)
        self._require_same(sums, norm)
        for parameter, gradient in zip(reached, self._gradients, strict=True):
            parameter.grad = gradient
        self._replay_update = recorder.record(self._update)

    def __call__(self, batches: Sequence[PackedBatch]) -> StepReport:
        self._counts.copy_(self._step.count(batches))
        self._sums.zero_()
        self._correct.zero_()
        for batch in batches:
            self._buffers.fill(batch)
            self._replay_micro_batch()
        self._replay_update()
        # the next replay writes over these three
        kept = [each.clone() for each in (self._counts, self._norm, self._skipped)]
        return self._step.report(kept[0], self._sums, self._correct, *kept[1:])

    def _differentiate(self) -> tuple[tuple[Tensor | None, ...], Tensor, Tensor]:
        loss, sums, correct = self._step.losses(self._buffers.batch, self._counts)
        found = torch.autograd.grad(self._step.scaled(loss), self._parameters, allow_unused=True)
        return found, sums, correct

    def _require_same(self, sums: Tensor, norm: Tensor) -> None:
        """Raise if a replay of the micro-batch in the buffers has other losses, or another norm of the gradient."""
        self._replay_micro_batch()
        if not (_are_close(self._sums, sums) and _are_close(get_total_norm(self._gradients), norm)):
            raise RuntimeError("a replay has another loss or gradient than the step itself")
        for each in (self._sums, self._correct, *self._totals):
            each.zero_()

    def _micro_batch(self) -> None:
        found, sums, correct = self._differentiate()
        gradients = [gradient for gradient in found if gradient is not None]
        if self._totals:
            torch._foreach_add_(self._totals, gradients)
        else:
            self._gradients = gradients
        self._sums += sums
        self._correct += correct

    def _update(self) -> None:
        self._norm, self._skipped = self._step.update()
        if self._totals:
            torch._foreach_zero_(self._totals)


def _are_close(one: Tensor, other: Tensor) -> bool:
    # libraries may choose another algorithm for a product inside a graph
    return torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
