"""The memory of a training step, without running it: the step is traced on tensors of the `meta` device.

Such tensors have shapes and no values. Forward and backward make them as those of a real step, keep them and let them
go, so the most bytes alive at a time are those of a real step. `Trace` notes when storage comes and goes. At the
moment with the most bytes, each storage belongs to a part:

    weights        parameters and buffers
    gradients      what `.grad` holds at the end of the step
    optimizer      the moments, and what else the optimizer keeps for a parameter
    activations    what the forward keeps for the backward
    working        everything else alive at that moment

An operation of `unmask_kernels` counts with its results, not with what its backend takes and frees inside, and an
allocator leaves gaps. `devices.Device.overhead` adds an estimate for both; docs/measured.md has plans beside steps that
ran.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unmask.batch import PackedBatch, assemble
from unmask.config import RunConfig
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import Objective, build_objectives, score_batch
from unmask.train.optim import LAYERS
from unmask_kernels import using

__all__ = ["StepMemory", "Trace", "example_batch", "model_of", "trace_step"]


class StepMemory(NamedTuple):
    """Bytes of each part at the moment of a step when most are needed; the module says what the parts are."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self)


@dataclass(frozen=True, slots=True)
class _Change:
    storage: int
    size: int


class Trace(TorchDispatchMode):
    """Notes storage that comes and goes inside the context.

    Attributes:
        changes: each allocation, and each release with a negative size, in their order.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.changes: list[_Change] = []
        self._known: dict[int, tuple[int, Any]] = {}
        self._count = 0

    def number(self, tensor: Tensor) -> int:
        """Return the number of a tensor's storage, which is noted if it is new."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._known:
            number, size = self._count, storage.nbytes()
            self._count += 1

            def release(_: object) -> None:
                self.changes.append(_Change(number, -size))
                del self._known[address]

            self._known[address] = number, weakref.ref(storage, release)
            self.changes.append(_Change(number, size))
        return self._known[address][0]

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        for each in tree_leaves(results):
            if isinstance(each, Tensor):
                self.number(each)
        return results

    def alive(self, until: int | None = None) -> dict[int, int]:
        """Return the bytes of each storage that is alive after the first `until` changes; default: all of them."""
        found: dict[int, int] = {}
        for change in self.changes[:until]:
            if change.size >= 0:
                found[change.storage] = change.size
            else:
                found.pop(change.storage, None)
        return found

    def fullest(self) -> int:
        """Return after how many changes the most bytes are alive."""
        held = np.cumsum([change.size for change in self.changes])
        return int(held.argmax()) + 1 if held.size else 0


def trace_step(config: RunConfig, encoder: EncoderConfig, batch: PackedBatch, *, dtype: torch.dtype) -> StepMemory:
    """Return the memory of a training step.

    Args:
        config: the run; its objectives, micro-batches and activation checkpointing count.
        encoder: the sizes, with the size of the vocabulary.
        batch: a micro-batch, on any device; only its shapes count.
        dtype: of the activations.
    """
    # on the CPU the weights would be drawn
    with torch.device("meta"):
        model, objectives = model_of(config, encoder, dtype)
    several = config.train.tokens_per_step > config.stream.micro_batch_tokens
    # Triton's backends refuse the device; their results have the same sizes
    with using("torch"):
        trace = Trace()
        held = _numbers(trace, [*model.parameters(), *model.buffers()])
        _numbers(trace, _tensors(batch.to("meta")))
        with trace:
            if several:
                # the gradients of earlier micro-batches are there from the beginning
                _run(model, objectives, batch.to("meta"))
            forward = _run(model, objectives, batch.to("meta"), trace)
    gradients = _numbers(trace, [p.grad for p in model.parameters() if p.grad is not None])
    moment = trace.fullest()
    kept = trace.alive(forward).keys()
    parts = dict.fromkeys(StepMemory._fields, 0)
    for number, size in trace.alive(moment).items():
        part = "activations" if number in kept else "working"
        part = "weights" if number in held else "gradients" if number in gradients else part
        parts[part] += size
    return StepMemory(**parts | {"optimizer": optimizer_bytes(model, config)})


def model_of(
    config: RunConfig, encoder: EncoderConfig, dtype: torch.dtype
) -> tuple[PretrainingModel, list[tuple[Objective, float]]]:
    """Return the model of a run, to be trained, and its objectives with their weights."""
    objectives = build_objectives({name: weight for name, weight in asdict(config.objective).items() if weight > 0})
    heads = sorted({"mlm", *(head for objective, _ in objectives for head in objective.heads)})
    model = PretrainingModel(encoder, heads=heads, compute_dtype=dtype, seed=config.seed).train()
    if config.train.activation_checkpointing:
        model.activation_checkpointing_enable()
    return model, objectives


def optimizer_bytes(model: torch.nn.Module, config: RunConfig) -> int:
    """Return what the optimizer keeps: two moments of a parameter, or one of a matrix that Muon updates."""
    total = 0
    for name, parameter in model.named_parameters():
        by_muon = config.optimizer.name == "muon" and parameter.ndim == 2 and name.startswith(LAYERS)
        total += (1 if by_muon else 2) * parameter.numel() * parameter.element_size()
    return total


def example_batch(config: RunConfig, encoder: EncoderConfig, lengths: Sequence[int]) -> PackedBatch:
    """Return a micro-batch of documents of these lengths: random ids, of which as many are predicted as in the run."""
    random = np.random.Generator(np.random.PCG64(0))
    tokens, objective = sum(lengths), config.objective
    ids = random.integers(encoder.token_rows, size=tokens)
    rate = 1.0 if objective.clm > 0 else max(config.masking.rate, config.masking.rate_end or 0.0)
    rows = np.sort(random.permutation(tokens)[: round(rate * tokens)])
    pairs = np.zeros(len(lengths), dtype=np.int64) if objective.nsp > 0 or objective.sop > 0 else None
    return assemble(
        ids,
        np.asarray(lengths),
        keys=np.arange(len(lengths), dtype=np.int64),
        tokens=tokens,
        sequences=len(lengths),
        max_seqlen=max(lengths),
        masked=rows,
        labels=ids[rows],
        pair_labels=pairs,
    )


def _run(
    model: PretrainingModel, objectives: list[tuple[Objective, float]], batch: PackedBatch, trace: Trace | None = None
) -> int:
    """Run forward and backward, and return how many changes there were between them."""
    tallies = score_batch(model, objectives, batch, all_rows=False)
    between = 0 if trace is None else len(trace.changes)
    torch.stack(
        [tally.loss_sum * weight for tally, (_, weight) in zip(tallies, objectives, strict=True)]
    ).sum().backward()
    return between


def _numbers(trace: Trace, tensors: Iterable[Tensor]) -> set[int]:
    return {trace.number(tensor) for tensor in tensors}


def _tensors(batch: PackedBatch) -> list[Tensor]:
    parts = (batch.ids, batch.segments, batch.word_starts, batch.masked, batch.labels)
    return [each for each in parts if each is not None]
