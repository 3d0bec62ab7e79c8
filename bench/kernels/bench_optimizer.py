"""optimizer: an update of all parameters of a BERT, every backend beside what others would run.

Peers, where they have the algorithm:

    foreach    `torch.optim.AdamW(foreach=True)`: operations on lists of tensors
    fused      `torch.optim.AdamW(fused=True)`: PyTorch's fused kernel
    apex       `apex.optimizers.FusedAdam` and `FusedLAMB`, where apex is installed; on a GPU
    eager      LAMB as a loop over parameters, with the operations that its paper writes

Parameters, gradients and moments are fp32. Weight decay applies to matrices, as in training. Clipping by the global
norm is inside the update where a variant can do that, else in front of it (`clip_grad_norm_`), and counts. The update
is bound by memory, so the floor is the number of bytes that `cost` counts, divided by the measured copy bandwidth.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from bench import machine
from bench.clock import PLAYBACK
from bench.roofline import copy_bandwidth
from bench.variants import checked
from torch import nn

from unmask_kernels.capability import architecture
from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.optimizer import FAMILY, LAMB, AdamW, OptimizerCall, cost
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import run
from unmask_kernels.testing.optimizer import optimizer_case, plain_optimizer, run_updates

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

ON_GPU = torch.cuda.is_available()
# layers, hidden size, feed-forward size, vocabulary
MODELS = {
    "tiny": (2, 128, 512, 8192),
    "mini": (4, 256, 1024, 30522),
    "base": (12, 768, 3072, 30522),
    "large": (24, 1024, 4096, 30522),
}
SIZES = ["base", "large"] if ON_GPU else ["tiny"] if machine.DRY else ["tiny", "mini"]
# algorithm, whether updates are clipped, whether the global norm is
KINDS = {
    "adamw": ("adamw", False, False),
    "adamw, clipped": ("adamw", False, True),
    "stable_adamw, clipped": ("adamw", True, True),
    "lamb, clipped": ("lamb", False, True),
}
PEERS = ("foreach", "fused", "apex", "eager")
HAS_APEX = ON_GPU and importlib.util.find_spec("apex") is not None
_RATE = 1e-4


def _shapes(size: str) -> list[tuple[int, ...]]:
    """Those of a BERT with its masked-LM head."""
    layers, hidden, inner, vocabulary = MODELS[size]
    vectors: list[tuple[int, ...]] = [(hidden,)] * 2
    layer: list[tuple[int, ...]] = [(3 * hidden, hidden), (3 * hidden,), (hidden, hidden), (hidden,), *vectors]
    layer += [(inner, hidden), (inner,), (hidden, inner), (hidden,), *vectors]
    tables: list[tuple[int, ...]] = [(vocabulary, hidden), (512, hidden), (2, hidden), *vectors]
    return [*tables, *layer * layers, (hidden, hidden), (hidden,), *vectors, (vocabulary,)]


def _groups(size: str, device: torch.device) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    split: list[dict[str, Any]] = [{"params": [], "weight_decay": 0.01}, {"params": [], "weight_decay": 0.0}]
    for shape in _shapes(size):
        parameter = nn.Parameter((torch.randn(shape, generator=generator) * 0.02).to(device))
        parameter.grad = (torch.randn(shape, generator=generator) * 1e-3).to(device)
        split[len(shape) == 1]["params"].append(parameter)
    return split


class _Update:
    """An update of a variant on parameters of its own.

    Args:
        groups: the parameters, with their gradients.
        step: makes the function that updates them.
        clips: whether gradients are clipped in front of it.
    """

    def __init__(
        self, groups: list[dict[str, Any]], step: Callable[[list[dict[str, Any]]], Callable[[], Any]], *, clips: bool
    ) -> None:
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self._step, self._clips = step(groups), clips

    def __call__(self, at: int = 0) -> None:
        if self._clips:
            nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self._step()


def _eager_lamb(groups: list[dict[str, Any]]) -> Callable[[], Any]:
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for group in groups for p in group["params"]}
    count = 0

    @torch.no_grad()
    def step() -> None:
        nonlocal count
        count += 1
        for group in groups:
            for p in group["params"]:
                m, v = moments[p]
                m.mul_(0.9).add_(p.grad, alpha=0.1)
                v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                u = (m / (1 - 0.9**count)) / ((v / (1 - 0.999**count)).sqrt() + 1e-6) + group["weight_decay"] * p
                sizes = p.norm(), u.norm()
                ratio = torch.where((sizes[0] > 0) & (sizes[1] > 0), sizes[0] / sizes[1], 1.0)
                p.sub_(u * (ratio if group["weight_decay"] else 1.0) * _RATE)

    return step


def _updates(kind: str, size: str, device: torch.device) -> dict[str, _Update]:
    """The variants that have this algorithm and run here."""
    algorithm, clip_update, clips = KINDS[kind]
    settings: dict[str, Any] = {"lr": _RATE, "eps": 1e-6}
    inside = settings | {"max_norm": 1.0 if clips else None}
    call = _call(kind, device)
    makers: dict[str, Callable[[list[dict[str, Any]]], Callable[[], Any]]] = {}
    for name, backend in FAMILY.backends.items():
        if not backend.refuses(call):
            own = inside | {"backend": name}
            if algorithm == "lamb":
                makers[name] = lambda groups, own=own: LAMB(groups, **own).step  # type: ignore[misc]
            else:
                makers[name] = lambda groups, own=own: AdamW(groups, clip_update=clip_update, **own).step  # type: ignore[misc]
    if algorithm == "lamb":
        makers["eager"] = _eager_lamb
    elif not clip_update:
        makers["foreach"] = lambda groups: torch.optim.AdamW(groups, foreach=True, **settings).step
        makers["fused"] = lambda groups: torch.optim.AdamW(groups, fused=True, **settings).step
    if HAS_APEX and algorithm == "lamb":
        from apex.optimizers import FusedLAMB

        makers["apex"] = lambda groups: FusedLAMB(groups, max_grad_norm=1.0, **settings).step
    elif HAS_APEX and not clip_update:
        from apex.optimizers import FusedAdam

        makers["apex"] = lambda groups: FusedAdam(groups, **settings).step
    return {
        name: _Update(
            _groups(size, device),
            make,
            clips=clips and name not in FAMILY.backends and (name, algorithm) != ("apex", "lamb"),
        )
        for name, make in makers.items()
    }


def _call(kind: str, device: torch.device) -> OptimizerCall:
    algorithm, clip_update, clips = KINDS[kind]
    here = architecture(torch.empty(0, device=device))
    return OptimizerCall(device.type, here, torch.float32, "float32", "none", algorithm, clip_update, clips, True)


def _enter(kind: str, size: str, device: torch.device) -> dict[str, Callable[[int], object]]:
    """Compare every variant: ours with the truth on a small case, all with the definition on the tiny model."""
    algorithm, clip_update, _ = KINDS[kind]
    case = optimizer_case("small", (64, 1, 7, 130, 1025), algorithm=algorithm, clip_update=clip_update, max_norm=1.0)
    small = case.make(torch.float32, device)
    truth, plain = run(partial(run_updates, backend="reference"), small.double()), run(plain_optimizer, small)
    tiny = _updates(kind, "tiny", device)
    for update in tiny.values():
        for _ in range(3):
            update()

    def check(name: str, update: Callable[..., Any]) -> None:
        if name in FAMILY.backends:
            compare(run(partial(run_updates, backend=name), small), plain, truth)
        for one, other in zip(tiny[name].parameters, tiny["reference"].parameters, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)

    return checked(_updates(kind, size, device), check)


@pytest.mark.parametrize("variant", [*PEERS, *FAMILY.backends])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def bench_optimizer(
    benchmark: Any, side_by_side: Any, device: torch.device, kind: str, size: str, variant: str
) -> None:
    algorithm, clip_update, clips = KINDS[kind]
    if variant in FAMILY.backends and FAMILY.backends[variant].refuses(_call(kind, device)):
        with pytest.raises(BackendUnavailable) as refusal:
            FAMILY.choose(variant, _call(kind, device))
        pytest.skip(str(refusal.value))
    if variant == "apex" and not HAS_APEX:
        pytest.skip("apex is not installed, or there is no GPU")
    absent = {"lamb": ("foreach", "fused")}.get(algorithm, ("eager", *(("foreach", "fused", "apex") * clip_update)))
    if variant in absent:
        pytest.skip(f"{variant} has no {kind.partition(',')[0]}")
    elements = sum(math.prod(shape) for shape in _shapes(size))
    moved = cost.bytes_step(elements, algorithm=algorithm, clip_update=clip_update, clip_norm=clips)
    bandwidth = copy_bandwidth(str(device))
    side_by_side.run(
        benchmark,
        group=f"optimizer, {kind}",
        case=f"{size}, {elements / 1e6:.1f} M parameters in {len(_shapes(size))} tensors",
        variant=variant,
        enter=lambda: _enter(kind, size, device),
        rounds=50 if ON_GPU else 10,
        extra={
            "baseline": "eager" if algorithm == "lamb" else "reference" if clip_update else "foreach",
            "bytes": moved,
            "floor_seconds": moved / bandwidth,
            "ceiling": f"copy bandwidth of this run, {bandwidth / 1e9:,.1f} GB/s",
        },
    )
