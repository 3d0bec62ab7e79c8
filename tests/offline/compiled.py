"""Run what nvcc makes of the kernels of `csrc/` on the PTX machine, in the place of the host machine's threads.

    with machine.device() as device, compiled(device, ptx(file, "sm_90a"), schedule=3) as found:
        case(device)                                     # the same case as on the host machine
    assert not found

The launchers are those of the host machine's library. A launch hands its kernel, its sizes and its arguments to the PTX
machine, which runs all blocks in turn, in an order drawn from the schedule, on the memory of the device. It checks
bounds, alignment, races within and between blocks, and waits without an end.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from offline.host.device import Device
from offline.nvcc import readable
from offline.ptx.machine import Deadlock, Machine
from offline.ptx.order import OrderedMemory
from offline.ptx.program import Program

__all__ = ["compiled", "programs"]

_LAUNCH_FAILURE = 719
_MOST_TURNS = 50_000

_SIZES = ctypes.POINTER(ctypes.c_uint)
_RUNNER = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_uint64, _SIZES, _SIZES, ctypes.c_uint64, ctypes.c_bool,
    ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t), ctypes.c_uint64,
)  # fmt: skip


class _Launch(NamedTuple):
    """What a launcher asks for.

    Attributes:
        program: the kernel.
        grid: blocks along three axes.
        threads: of a block.
        shared_bytes: dynamic shared memory of a block.
        cooperative: whether all blocks run at once.
        arguments: the bytes of each.
    """

    program: Program
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    cooperative: bool
    arguments: list[bytes]


@cache
def programs(text: str, header: Path) -> dict[str, Program]:
    """Return the kernels of a module of PTX by the names that they have in the source."""
    return {readable(name, header): program for name, program in Program.read_all(text).items()}


@contextmanager
def compiled(device: Device, kernels: dict[str, Program], header: Path, *, schedule: int = 0) -> Iterator[Counter[str]]:
    """Run the launches on a device inside the block on the PTX machine.

    Args:
        device: of the host machine.
        kernels: by their names in the source, see `programs`.
        header: has the enums that the names of the kernels use.
        schedule: number of the order in which blocks take turns, and of how many run at once.
    Yields:
        Counts of the faults that launches showed, by description.
    """
    found: Counter[str] = Counter()
    random = np.random.default_rng(schedule)

    def run(kernel: int, grid: Any, block: Any, shared: int, cooperative: bool, at: Any, sizes: Any, count: int) -> int:
        try:
            assert (block[1], block[2]) == (1, 1), "blocks have one axis"
            arguments = [ctypes.string_at(at[index], sizes[index]) for index in range(count)]
            program = kernels[readable(_symbols(device.machine.path)[kernel], header)]
            launch = _Launch(program, (grid[0], grid[1], grid[2]), block[0], shared, cooperative, arguments)
            _run(launch, device, random, found)
        # whatever goes wrong must not reach the library's C++
        except Exception as error:
            found[f"{type(error).__name__}: {error}"] += 1
            return _LAUNCH_FAILURE
        return 0

    callback = _RUNNER(run)
    device.machine.library.machine_redirect(callback)
    try:
        yield found
    finally:
        device.machine.library.machine_redirect(None)


def _run(launch: _Launch, device: Device, random: np.random.Generator, found: Counter[str]) -> None:
    pieces = {
        address: np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        for address, (size, _) in device.memory.items()
        if size
    }
    constant = frozenset(address for address, (_, read_only) in device.memory.items() if read_only)
    blocks, warps = math.prod(launch.grid), -(-launch.threads // 32)
    memory = OrderedMemory(pieces, constant, blocks * warps, found)
    waiting = (_block(launch, memory, number, number * warps) for number in range(blocks))
    resident = blocks if launch.cooperative else int(random.integers(1, blocks + 1))
    running = [next(waiting) for _ in range(resident)]
    for _ in range(_MOST_TURNS):
        if not running:
            memory.close()
            return
        turn = int(random.integers(len(running)))
        if next(running[turn], running) is running:
            # it has ended
            del running[turn]
            running += [block for block in [next(waiting, None)] if block is not None]
    raise Deadlock(f"{len(running)} blocks do not end")


def _block(launch: _Launch, memory: OrderedMemory, number: int, first_warp: int) -> Iterator[None]:
    x, y, _ = launch.grid
    place = (number % x, number // x % y, number // (x * y))
    shared = max(16, launch.shared_bytes)
    machine = Machine(
        launch.program, launch.arguments, memory, place, launch.grid, shared,
        threads=launch.threads, first_warp=first_warp,
    )  # fmt: skip
    return machine.steps()


@cache
def _symbols(library: Path) -> dict[int, str]:
    """Return the functions of a library by their addresses."""
    listing = subprocess.run(["nm", str(library)], capture_output=True, text=True, check=True).stdout
    lines = (line.split() for line in listing.splitlines())
    return {int(words[0], 16): words[2] for words in lines if len(words) == 3 and words[1] in "tTwW"}
