"""Checks of `csrc/common/wgmma.cuh`, on the host machine or on the PTX machine, by NVIDIA's tables of layouts.

Operands are laid out here, and sums are read, by the tables of the PTX ISA (sections "Register Fragments and Shared
Memory Matrix Layouts" and "Strides" of wgmma). A kernel copies the operands as they are, and leaves what each thread
holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from offline.host.build import HOST
from offline.host.device import Device, Machine

__all__ = ["OPERANDS", "SOURCE", "Operands", "build", "run"]

SOURCE = HOST / "kernels" / "wgmma.cu"
_ROWS, _DEPTH = 64, 64
_ATOM = 64  # elements of 16 bits in 128 bytes, the line of the swizzle


def build(source: Path = SOURCE, to: Path | None = None) -> Machine:
    """Compile the kernel for the host machine, or a changed copy of it to another folder."""
    return Machine.build(source, include=[HOST.parents[2] / "csrc"], strict=to is None, to=to)


@dataclass(frozen=True, kw_only=True, slots=True)
class Operands:
    """What is multiplied: left (64, 64) with right (64, columns), of each of `groups` warpgroups.

    Attributes:
        dtype: bf16 or fp16.
        columns: 32, 64 or 128.
        groups: warpgroups in the block.
        in_registers: whether the left operand is in registers.
        transposed_left, transposed_right: whether rows, or columns, lie along the lines of shared memory.
    """

    dtype: torch.dtype = torch.bfloat16
    columns: int = 64
    groups: int = 1
    in_registers: bool = False
    transposed_left: bool = False
    transposed_right: bool = False

    def __str__(self) -> str:
        left = "registers" if self.in_registers else "transposed" if self.transposed_left else "plain"
        right = "transposed" if self.transposed_right else "plain"
        return f"{str(self.dtype).removeprefix('torch.')}, 64 x {self.columns}, {left} x {right}, {self.groups}"


def _operands() -> Iterator[Operands]:
    for columns, kind in itertools.product((32, 64, 128), itertools.product((False, True), repeat=3)):
        in_registers, left, right = kind
        if not (in_registers and left):
            yield Operands(
                dtype=torch.float16 if right else torch.bfloat16,
                columns=columns,
                in_registers=in_registers,
                transposed_left=left,
                transposed_right=right,
            )
    yield Operands(dtype=torch.float16, groups=2, in_registers=True)
    yield Operands(transposed_left=True, transposed_right=True, groups=2)


OPERANDS = {str(each): each for each in _operands()}
"""Every kind of operand and every width."""


def run(device: Device, operands: Operands) -> tuple[Tensor, Tensor]:
    """Multiply small whole numbers; return the sums that the threads hold, and the right ones, (groups, 64, columns).

    The kernel adds four products to `start`, and takes the first one away twice.
    """
    random = torch.Generator().manual_seed(1)
    groups, columns = operands.groups, operands.columns

    def values(*shape: int) -> Tensor:
        return torch.randint(-4, 5, shape, generator=random).float()

    left, right, start = values(groups, _ROWS, _DEPTH), values(columns, _DEPTH), values(groups, _ROWS, columns)
    right_image, leading = _in_shared_memory(right, operands.transposed_right)
    if operands.in_registers:
        image = torch.stack([_in_registers(each) for each in left])
    else:
        image = torch.stack([_in_shared_memory(each, operands.transposed_left)[0] for each in left])
    sums = device.empty((groups, 128, columns // 2), torch.float32)
    status = device.call(
        "run_products",
        device.tensor(image.to(operands.dtype), read_only=True),
        device.tensor(right_image.to(operands.dtype), read_only=True),
        device.tensor(_of_threads(start), read_only=True),
        sums,
        *((16 * 128 if transposed else 32) for transposed in (operands.transposed_left, operands.transposed_right)),
        leading,
        int(operands.dtype == torch.float16),
        columns,
        groups,
        *map(int, (operands.in_registers, operands.transposed_left, operands.transposed_right)),
    )
    if status != 0:
        return torch.full((), float("nan")), torch.zeros(())
    wanted = start + left @ right.T - 2 * left[:, :, :16] @ right[:, :16].T
    return sums, _of_threads(wanted)


def _in_shared_memory(matrix: Tensor, transposed: bool) -> tuple[Tensor, int]:
    """Lay out a matrix (rows, depth) in the canonical layout of the 128-byte swizzle; return also the leading offset.

    The documentation has the layouts in units of CuTe, for T = 8 elements of 16 bits in 128 bits:

        K major      Swizzle<3, 4, 3> o ((8, m), (T, 2 k)) : ((8 T, SBO), (1, T))
        MN major     Swizzle<3, 4, 3> o ((T, 8, m), (8, k)) : ((1, T, LBO), (8 T, SBO))
    """
    rows, depth = matrix.shape
    i, k = torch.meshgrid(torch.arange(rows), torch.arange(depth), indexing="ij")
    stride, leading = 1024 // 2, depth * _ATOM
    if transposed:
        place = i % 8 + (i // 8 % 8) * 8 + i // 64 * leading + (k % 8) * 64 + k // 8 * stride
    else:
        place = (i % 8) * 64 + i // 8 * stride + k % 8 + k // 8 * 8
    # Swizzle<3, 4, 3> of bytes: bits 4 to 6 with bits 7 to 9
    swizzled = place ^ ((place >> 6 & 7) << 3)
    # a line is whole, however few of its elements are multiplied
    image = torch.zeros(max(_ATOM, rows) * depth)
    image[swizzled.flatten()] = matrix.flatten()
    return image, 2 * leading


def _in_registers(matrix: Tensor) -> Tensor:
    """What the threads hold of a left operand (64, 64): (128, 4 products, 8 elements).

    "WGMMA .m64nNk16 register fragment layout for matrix A": of groupID = lane / 4 and element i,

        row = groupID             for i in 0, 1, 4, 5             column = 2 (lane % 4) + i % 2        for i < 4
              groupID + 8         for the others                           2 (lane % 4) + i % 2 + 8    for the others
    """
    fragments = torch.empty(128, 4, 8)
    for thread, step, i in itertools.product(range(128), range(4), range(8)):
        lane = thread % 32
        row = 16 * (thread // 32) + lane // 4 + (0 if i in (0, 1, 4, 5) else 8)
        column = 2 * (lane % 4) + i % 2 + (0 if i < 4 else 8)
        fragments[thread, step, i] = matrix[row, 16 * step + column]
    return fragments


def _of_threads(matrices: Tensor) -> Tensor:
    """What the threads hold of sums (groups, 64, columns): (groups, 128, columns / 2).

    "WGMMA .m64nNk16 register fragment layout for accumulator matrix D": with i from 0 to N / 2 - 1,

        row = groupID for i % 4 < 2, else groupID + 8             column = 8 (i / 4) + 2 (lane % 4) + i % 2
    """
    groups, _, columns = matrices.shape
    thread, i = torch.arange(128)[:, None], torch.arange(columns // 2)[None, :]
    row = 16 * (thread // 32) + thread % 32 // 4 + torch.where(i % 4 < 2, 0, 8)
    return matrices[:, row, 8 * (i // 4) + 2 * (thread % 4) + i % 2].reshape(groups, 128, columns // 2)
