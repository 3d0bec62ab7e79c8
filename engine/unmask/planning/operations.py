"""The share of each operation in a training step, from the events of PyTorch's profiler.

An event belongs to the outermost operation around it that has a family: the softmax inside of an attention is
attention. The time of an event is its own, without the events inside of it, so the times add up to the step. On a GPU
it is the time of the kernels that the event launched, and what is left of the step is called `idle`. On a CPU the own
time of the step is called `python`: it passes between operations.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["DATA", "STEP", "Operation", "family_of", "operations_of", "shares_of"]

STEP, DATA = "unmask.step", "unmask.data"
"""The names under which a step, and the wait for its batches with their way to the device, are recorded."""

OTHER = "other"

_FAMILIES = {
    "data": rf"{re.escape(DATA)}$",
    "optimizer": r"Optimizer\.|unmask::optimizer|unmask::(adamw|lamb)|aten::_foreach_|aten::_fused_adam",
    "attention": r"unmask::attention|Attention(Backward)?$|aten::_?scaled_dot_product|aten::_flash",
    "layer_norm": r"unmask::layer_norm|LayerNorm(Backward)?$|aten::(native_)?layer_norm",
    "embedding": r"unmask::embedding|Embedding(Backward)?$|aten::embedding",
    "gelu": r"unmask::gelu|Gelu(Backward)?$|aten::gelu",
    "loss": r"unmask::mlm_loss|MlmLoss(Backward)?$|aten::(cross_entropy|nll_loss|_?log_softmax)",
    "masking": r"unmask::masking",
    "products": r"unmask::linear_gelu|aten::(mm|addmm|bmm|baddbmm|matmul|linear|_addmm_activation)\b|mkldnn",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _FAMILIES.items()}


class _Event(Protocol):
    """What is read of an event of `torch.profiler`; times are in microseconds."""

    name: str
    cpu_parent: Any
    self_cpu_time_total: float
    self_device_time_total: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """Some events of one name or of one family, in a step.

    Attributes:
        name: the name of the operation, or of the family.
        family: the family.
        seconds: own time of the events in a step.
        share: of the step.
        calls: number of events in a step; of a family, those that are not inside of another event of it.
        outermost: number of them that are not inside of another event of their family.
    """

    name: str
    family: str
    seconds: float
    share: float
    calls: float
    outermost: float


def family_of(name: str) -> str | None:
    """Return the family of an operation by its name; None if it has none of its own."""
    return next((family for family, pattern in _PATTERNS.items() if pattern.match(name)), None)


def operations_of(events: Iterable[_Event], *, steps: int, seconds: float, on_gpu: bool) -> list[Operation]:
    """Return the operations of some steps, the largest first.

    Args:
        events: of the host.
        steps: number of steps in which they were recorded.
        seconds: of one of these steps.
        on_gpu: whether the time on the GPU counts.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    outermost: Counter[tuple[str, str]] = Counter()
    for event in events:
        chain = list(_chain(event))
        if chain[0].name != STEP:
            continue
        family = next(filter(None, (family_of(one.name) for one in chain)), OTHER)
        if event.name != STEP:
            times[event.name, family].append(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
            outermost[event.name, family] += all(family_of(one.name) is None for one in chain[:-1])
        elif not on_gpu:
            times["python", "python"].append(event.self_cpu_time_total)
    found = [
        Operation(
            name=name,
            family=family,
            seconds=sum(each) / 1e6 / steps,
            share=sum(each) / 1e6 / steps / seconds,
            calls=len(each) / steps,
            outermost=outermost[name, family] / steps,
        )
        for (name, family), each in times.items()
    ]
    if on_gpu:
        idle = max(0.0, seconds - sum(one.seconds for one in found))
        found.append(
            Operation(name="idle", family="idle", seconds=idle, share=idle / seconds, calls=0.0, outermost=0.0)
        )
    return sorted(found, key=lambda one: -one.seconds)


def shares_of(operations: Iterable[Operation]) -> list[Operation]:
    """Return the operations of each family together, the largest first."""
    members: dict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        members[one.family].append(one)
    together = [
        Operation(
            name=family,
            family=family,
            seconds=sum(one.seconds for one in each),
            share=sum(one.share for one in each),
            calls=sum(one.outermost for one in each),
            outermost=sum(one.outermost for one in each),
        )
        for family, each in members.items()
    ]
    return sorted(together, key=lambda one: -one.seconds)


def _chain(event: _Event) -> Iterator[_Event]:
    """Yield an event and those around it, the outermost first."""
    around = [event]
    while around[-1].cpu_parent is not None:
        around.append(around[-1].cpu_parent)
    return reversed(around)
