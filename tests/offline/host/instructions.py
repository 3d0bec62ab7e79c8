"""Checks of the functions of `csrc/common/instructions.cuh`, on the host machine or on the PTX machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from offline.host.build import HOST
from offline.host.device import Device, Machine

__all__ = ["RESULTS", "SOURCE", "build"]

SOURCE = HOST / "kernels" / "instructions.cu"


def build() -> Machine:
    """Compile the kernels for the host machine."""
    return Machine.build(SOURCE, include=[HOST.parents[2] / "csrc"])


def _values(*shape: int) -> Tensor:
    # small whole numbers, so that sums are exact in every order
    return torch.randint(1, 10, shape, generator=torch.Generator().manual_seed(1)).float()


def _conversions(device: Device) -> tuple[Tensor, Tensor]:
    """Widen all numbers of 16 bits and round values between them; return the results and PyTorch's."""
    numbers = torch.arange(1 << 16).to(torch.uint16)
    x = torch.cat([numbers.view(torch.bfloat16), numbers.view(torch.float16)]).float().view(2, -1)
    # also what lies between two numbers, and half-way
    values = torch.cat([x, x * (1 + 2**-9), x * (1 + 2**-11), x * 1.3, x + 2**-25], 1)
    wide = device.empty((2, 1 << 16), torch.float32)
    narrow = device.empty((2, values.shape[1]), torch.uint16)
    bits = device.tensor(numbers, read_only=True)
    device.call("run_conversions", bits, wide, device.tensor(values, read_only=True), narrow, values.shape[1])
    rounded = torch.stack([narrow[0].view(torch.bfloat16).float(), narrow[1].view(torch.float16).float()])
    wanted = torch.stack([values[0].bfloat16().float(), values[1].half().float()])
    return torch.cat([wide, rounded], 1).nan_to_num(1.5e30), torch.cat([x, wanted], 1).nan_to_num(1.5e30)


def _chain(device: Device, blocks: int = 5, threads: int = 64) -> tuple[Tensor, Tensor]:
    x, y = _values(blocks, threads), device.empty((blocks,), torch.float32)
    tickets, done = (device.tensor(torch.zeros(1, dtype=torch.int32)) for _ in range(2))
    device.call("run_chain", device.tensor(x, read_only=True), y, tickets, done, blocks, threads)
    return y, x.sum(1).cumsum(0)


def _normalise(device: Device, count: int = 150, blocks: int = 3) -> tuple[Tensor, Tensor]:
    x, y = _values(count), device.empty((count,), torch.float32)
    left, arrived = device.empty((blocks, 64), torch.float32), device.tensor(torch.zeros(1, dtype=torch.int32))
    device.call("run_normalise", device.tensor(x, read_only=True), y, left, arrived, count, blocks, 64)
    return y, x / x.sum()


RESULTS: dict[str, Callable[[Device], tuple[Tensor, Tensor]]] = {
    "conversions": _conversions,
    "chain": _chain,
    "normalise": _normalise,
}
"""Each runs one kernel and returns its result and the right one."""
