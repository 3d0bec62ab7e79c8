"""Checks of the example kernels: right results, and nothing found by the machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from offline.host.build import HOST
from offline.host.device import Device, Machine
from offline.host.subject import Subject

__all__ = ["RESULTS", "SOURCE", "SUBJECT", "build"]

SOURCE = HOST / "kernels" / "examples.cu"


def build(folder: Path = SOURCE.parent) -> Machine:
    """Compile the example kernels, or a changed copy of them in another folder."""
    changed = folder != SOURCE.parent
    return Machine.build(folder / SOURCE.name, strict=not changed, to=folder if changed else None)


def _values(*shape: int) -> Tensor:
    # small whole numbers, so that sums are exact in every order
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(1)).float()


def _block_sum(device: Device) -> tuple[Tensor, Tensor]:
    x, sums = _values(1000), device.empty((4,), torch.float32)
    device.call("run_block_sum", device.tensor(x, read_only=True), sums, 1000, 4, 96)
    return sums.sum(), x.sum()


def _transpose(device: Device, pitch: int = 33) -> tuple[Tensor, Tensor]:
    x, y = _values(64, 64), device.empty((64, 64), torch.float32)
    device.call("run_transpose", device.tensor(x, read_only=True), y, 64, pitch)
    return y, x.T


def _normalise(device: Device, count: int = 150) -> tuple[Tensor, Tensor]:
    x, y = _values(count).abs() + 1.0, device.empty((count,), torch.float32)
    arrived = device.tensor(torch.zeros(1, dtype=torch.int32))
    device.call(
        "run_normalise", device.tensor(x, read_only=True), y, device.empty((3,), torch.float32), arrived, count, 3
    )
    return y, x / x.sum()


def _normalise_together(device: Device, count: int = 150) -> tuple[Tensor, Tensor]:
    x, y = _values(count).abs() + 1.0, device.empty((count,), torch.float32)
    sums = device.empty((3,), torch.float32)
    device.call("run_normalise_together", device.tensor(x, read_only=True), y, sums, count, 3)
    return y, x / x.sum()


def _last_block_sum(device: Device, count: int = 70) -> tuple[Tensor, Tensor]:
    x, total = _values(count), device.empty((), torch.float32)
    sums, arrived = device.empty((3,), torch.float32), device.tensor(torch.zeros(1, dtype=torch.int32))
    device.call("run_last_block_sum", device.tensor(x, read_only=True), sums, arrived, total, count, 3)
    return total, x.sum()


def _warp_scan(device: Device) -> tuple[Tensor, Tensor]:
    x, y = _values(64), device.empty((64,), torch.float32)
    device.call("run_warp_scan", device.tensor(x, read_only=True), y, 64)
    return y, x.view(2, 32).cumsum(1).view(-1)


def _pipeline(device: Device, chunks: int = 5) -> tuple[Tensor, Tensor]:
    x, y = _values(chunks, 128), device.empty((chunks, 128), torch.float32)
    device.call("run_pipeline", device.tensor(x, read_only=True), y, chunks)
    return y, 2.0 * x


def _hand_over(device: Device, name: str) -> tuple[Tensor, Tensor]:
    x, y = _values(5, 32), device.empty((5, 32), torch.float32)
    device.call(name, device.tensor(x, read_only=True), y, 5)
    return y, x.flip(1) + 1.0


RESULTS: dict[str, Callable[[Device], tuple[Tensor, Tensor]]] = {
    "block_sum": _block_sum,
    "transpose": _transpose,
    "normalise": _normalise,
    "normalise_together": _normalise_together,
    "last_block_sum": _last_block_sum,
    "warp_scan": _warp_scan,
    "pipeline": _pipeline,
    "one chunk": partial(_pipeline, chunks=1),
    "hand_over": partial(_hand_over, name="run_hand_over"),
    "hand_over_named": partial(_hand_over, name="run_hand_over_named"),
}
"""Each runs one kernel and returns its result and the right one."""

_BEFORE_THE_FIRST = "the phase before the first one counts as over, so the wait returns at once"
_EQUIVALENT = {
    "unmask::add_release(arrived, 1);": "the loop behind it acquires what the others published",
    "for (unsigned distance = 1; distance <= 32; distance *= 2) {": "no lane is 32 places behind the first one",
    "if ((round > 0) || true) host_machine::mbarrier_wait(empty, (round - 1) % 2);": _BEFORE_THE_FIRST,
    "if (round >= 0) host_machine::mbarrier_wait(empty, (round - 1) % 2);": _BEFORE_THE_FIRST,
}


def _case(run: Callable[[Device], tuple[Tensor, Tensor]], device: Device) -> None:
    result, right = run(device)
    assert torch.equal(result, right), "the result is not the right one"


SUBJECT = Subject(
    name="examples",
    folder=SOURCE.parent,
    files=(SOURCE.name,),
    build=build,
    cases={name: partial(_case, run) for name, run in RESULTS.items()},
    equivalent=_EQUIVALENT,
)
"""The example kernels."""
