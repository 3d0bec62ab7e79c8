"""Run compiled Triton kernels on the CPU, from their PTX: layouts, pipelines, barriers.

    with emulated(90) as found:
        attention(qkv, documents, backend="triton")      # CPU tensors
    assert not found

The interpreter runs a kernel's source in one thread. The emulator runs the PTX that Triton makes of it for compute
capability 80 or 90, warp by warp, and checks bounds and races. It cannot find errors of NVIDIA's assembler, races
between the programs of a launch, or anything that depends on time. A tile of an attention kernel takes about a second.

This does not work in a process with TRITON_INTERPRET=1, where a kernel has no compiler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline import recorder
from offline.aot import compile_launch
from offline.ptx.machine import Machine
from offline.ptx.memory import Memory
from offline.ptx.program import Program

__all__ = ["emulated"]

_APART = 256  # bytes between tensors, at least, so that an access beyond an end is found


@contextmanager
def emulated(architecture: int) -> Iterator[Counter[str]]:
    """Run Triton launches inside the block on CPU tensors, as on compute capability 80 or 90.

    Yields:
        Counts of the faults that programs showed, by description: races between warps, results of asynchronous
        products that are used too early.
    """
    found: Counter[str] = Counter()

    def run(launch: recorder.Launch, values: dict[str, Any], grid: Any) -> None:
        _run(launch, values, grid(values) if callable(grid) else grid, architecture, found)

    with recorder.redirected(run, architecture):
        yield found


def _run(
    launch: recorder.Launch, values: dict[str, Any], grid: tuple[int, ...], architecture: int, found: Counter[str]
) -> None:
    binary = compile_launch(launch, architecture)
    program = Program.read(binary.asm["ptx"])
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in values.values() if _holds(each)}
    starts, end = {}, _APART
    for pointer, storage in storages.items():
        starts[pointer], end = end, end + -(-storage.nbytes() // _APART) * _APART + _APART
    data, valid = np.zeros(end, np.uint8), np.zeros(end, np.bool_)
    for pointer, start in starts.items():
        content = _bytes(storages[pointer])
        data[start : start + len(content)], valid[start : start + len(content)] = content, True
    # Triton adds two pointers to scratch memory, which these kernels do not use
    arguments = [_argument(values[name], starts) for name in launch.signature if name not in launch.constants] + [0, 0]
    x, y, z = (*grid, 1, 1)[:3]
    for program_id in product(range(x), range(y), range(z)):
        # a new history for each program: races between programs are not looked for
        memory = Memory("global", data, valid, found)
        Machine(program, arguments, memory, program_id, (x, y, z), max(16, binary.metadata.shared)).run()
    for pointer, start in starts.items():
        content = _bytes(storages[pointer])
        content[:] = data[start : start + len(content)]


def _holds(value: Any) -> bool:
    return isinstance(value, Tensor) and value.untyped_storage().nbytes() > 0


def _bytes(storage: torch.UntypedStorage) -> Any:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()


def _argument(value: Any, starts: dict[int, int]) -> Any:
    """Return the address of a tensor, or the number itself."""
    if not isinstance(value, Tensor):
        return value
    pointer = value.untyped_storage().data_ptr()
    return starts[pointer] + value.data_ptr() - pointer if _holds(value) else 0
