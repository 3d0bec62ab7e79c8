"""Checks of the functions of `csrc/common` that are inline assembly, on the host machine or on the PTX machine.

Layouts are written down here as NVIDIA's PTX documentation has them: tables of which lane holds which element.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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


def _words(device: Device) -> tuple[Tensor, Tensor]:
    """Round two values to one word, and take 2 to the power of the first."""
    x = torch.tensor([[-130.0, 1.0], [-126.0, 2.0], [3.0, -0.7], [0.0, 1e-30], [float("inf"), 3.3], [-8.0, 70000.0]])
    powers, words = device.empty((len(x),), torch.float32), device.empty((2, len(x)), torch.int32)
    device.call("run_words", device.tensor(x, read_only=True), powers, words, len(x))
    exact = torch.where(x[:, 0] < -126, 0.0, x[:, 0].exp2())
    wanted = torch.stack([x.bfloat16().view(torch.int32)[:, 0], x.half().view(torch.int32)[:, 0]])
    return torch.cat([powers, words.double().ravel()]), torch.cat([exact, wanted.double().ravel()])


def _copies(device: Device, size: int, threads: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    x = torch.randint(1, 256, (2 * threads, size), generator=generator, dtype=torch.uint8)
    valid = torch.randint(0, size + 1, (2 * threads,), generator=generator, dtype=torch.int32)
    valid[:2] = torch.tensor([0, size])
    y = device.empty((2 * threads, size), torch.uint8)
    # what lies behind the last valid byte of the last piece does not exist
    read = device.tensor(x.ravel()[: (2 * threads - 1) * size + int(valid[-1])], read_only=True)
    device.call("run_copies", read, device.tensor(valid, read_only=True), y, threads, size)
    return y, torch.where(torch.arange(size) < valid[:, None], x, 0)


_WARPS = 3
_LANE = torch.arange(32)[:, None]
_GROUP, _PLACE = _LANE // 4, _LANE % 4


def _fragments(device: Device) -> tuple[Tensor, Tensor]:
    """Load matrices in all forms: register m of a lane is two elements of row lane / 4 of matrix m, or of a column."""
    matrices = torch.arange(_WARPS * 256).view(_WARPS, 4, 8, 8).to(torch.int16)
    registers = device.empty((6, _WARPS, 32, 4, 2), torch.int16)
    device.call("run_fragments", device.tensor(matrices, read_only=True), registers, 32 * _WARPS)
    half, wanted = torch.arange(2), []
    for count in (1, 2, 4):
        plain, transposed = (torch.zeros(_WARPS, 32, 4, 2, dtype=torch.int16) for _ in range(2))
        plain[:, :, :count] = matrices[:, :count, _GROUP, 2 * _PLACE + half].transpose(1, 2)
        transposed[:, :, :count] = matrices[:, :count, 2 * _PLACE + half, _GROUP].transpose(1, 2)
        wanted += [plain, transposed]
    return registers, torch.stack(wanted)


def _products(device: Device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Multiply and add, with operands and results where the tables of m16n8k16 say that lanes hold them."""
    generator = torch.Generator().manual_seed(4)
    shapes = ((_WARPS, 16, 16), (_WARPS, 16, 8), (_WARPS, 16, 8))
    left, right, sums = (torch.randint(-9, 10, shape, generator=generator).float() for shape in shapes)
    i = torch.arange(8)
    of_left = left[:, _GROUP + 8 * ((i // 2) % 2), 2 * _PLACE + i % 2 + 8 * (i // 4)].to(dtype)
    i = torch.arange(4)
    of_right = right[:, 2 * _PLACE + i % 2 + 8 * (i // 2), _GROUP.expand(32, 4)].to(dtype)
    row, column = _GROUP + 8 * (i // 2), 2 * _PLACE + i % 2
    held = device.tensor(sums[:, row, column])
    operands = (device.tensor(each, read_only=True) for each in (of_left, of_right))
    # one warp of three does not multiply
    device.call("run_products", *operands, held, 32 * _WARPS, 0b101, int(dtype == torch.bfloat16))
    sums[[0, 2]] += (left @ right)[[0, 2]]
    return held, sums[:, row, column]


RESULTS: dict[str, Callable[[Device], tuple[Tensor, Tensor]]] = {
    "conversions": _conversions,
    "chain": _chain,
    "normalise": _normalise,
    "words": _words,
    **{f"copies of {size} bytes": partial(_copies, size=size) for size in (4, 8, 16)},
    "fragments": _fragments,
    "products in bf16": partial(_products, dtype=torch.bfloat16),
    "products in fp16": partial(_products, dtype=torch.float16),
}
"""Each runs one kernel and returns its result and the right one."""
