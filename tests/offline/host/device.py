"""Kernels on the host machine: memory that they may access, calls of their launchers, schedules."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline.host.build import compile_library
from offline.host.report import Report, read_report

__all__ = ["Device", "Machine"]

_MARGIN = 512  # bytes around a tensor that belong to nobody
_POISON = 0xFF  # makes NaN of every floating dtype
_MOST_ACCESSES = 400_000_000


class Machine:
    """A library of kernels with the machine in it.

    Attributes:
        path: of the library.
        library: what it exports.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.library = path, ctypes.CDLL(str(path))
        self.library.machine_forget.argtypes = [ctypes.c_uint64]
        self.library.machine_forbid.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_bool]
        self.library.machine_register.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int, ctypes.c_int]
        self.library.machine_configure.argtypes = [ctypes.c_uint64, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64]

    @classmethod
    def build(
        cls, *sources: Path, include: Sequence[Path] = (), strict: bool = True, to: Path | None = None
    ) -> Machine:
        """Compile kernels and load them; see `compile_library`."""
        return cls(compile_library(sources, include=include, strict=strict, to=to))

    @contextmanager
    def device(
        self, *, schedule: int = 0, multiprocessors: int = 4, shared_kb: int = 227, most_accesses: int = _MOST_ACCESSES
    ) -> Iterator[Device]:
        """Give a device with no memory in use; afterwards its report is complete.

        Args:
            schedule: number of the order in which threads run. 0 is first to last, 1 is last to first, one block after
                the other; every other number draws who runs next, when threads change, and how many blocks run at once.
            multiprocessors: as the launchers see them; they bound the blocks of a cooperative launch.
            shared_kb: most shared memory of a block.
            most_accesses: after so many a launch counts as endless.
        """
        device = Device(self)
        self.library.machine_clear()
        self.library.machine_configure(schedule, multiprocessors, shared_kb * 1024, most_accesses)
        try:
            yield device
        finally:
            device.close()


class Device:
    """Memory and calls of one session; a context manager of `Machine` makes it.

    Attributes:
        machine: whose it is.
        memory: bytes that kernels may access at each address, and whether they may only read them.
        report: what the launches showed so far.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine, self.memory = machine, dict[int, tuple[int, bool]]()
        self._kept = list[Any]()
        self._forbidden = list[tuple[int, int]]()
        self._report: Report | None = None

    @property
    def report(self) -> Report:
        """What the launches showed so far, or in the whole session once it is closed."""
        return self._report or read_report(self.machine.library, self.machine.path)

    def tensor(self, values: Tensor, *, offset: int = 0, read_only: bool = False) -> Tensor:
        """Copy values into the device's memory.

        Args:
            values: on the CPU.
            offset: bytes by which the tensor's address differs from a multiple of 256.
            read_only: a kernel that writes there is at fault.
        Returns:
            A contiguous tensor whose bytes kernels may access, and none around them.
        """
        result = self._place(tuple(values.shape), values.dtype, offset, True, read_only)
        return result.copy_(values)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, *, offset: int = 0) -> Tensor:
        """Reserve memory that is NaN, and that a kernel has to write before it reads it."""
        return self._place(shape, dtype, offset, False, False)

    def reserve(self, byte_count: int) -> int:
        """Return the address of so many bytes of zeros; only what is touched takes memory of the host."""
        area = mmap.mmap(
            -1, byte_count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        )
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        self._register(address, byte_count, True, False)
        self._kept.append(area)
        return address

    def lend(self, address: int, byte_count: int) -> None:
        """Let kernels access memory of the process: so many bytes from an address, and none around them.

        An address that was lent before gets the new size.
        """
        if address in self.memory:
            self.machine.library.machine_forget(address)
        self._register(address, byte_count, True, False)

    def call(self, name: str, *arguments: Any) -> int:
        """Call an exported function with tensors as addresses, whole numbers as 64 bits and others as doubles."""
        return int(self.machine.library[name](*map(_argument, arguments)))

    def close(self) -> None:
        """Read the report and take all memory back."""
        self._report = self.report
        for address in self.memory:
            self.machine.library.machine_forget(address)
        for address, size in self._forbidden:
            self.machine.library.machine_forbid(address, size, False)

    def _place(self, shape: tuple[int, ...], dtype: torch.dtype, offset: int, written: bool, read_only: bool) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        area = np.full(size + 2 * _MARGIN + 256 + offset, _POISON, np.uint8)
        start = -area.ctypes.data % 256 + _MARGIN + offset
        self._register(area.ctypes.data + start, size, written, read_only)
        # AddressSanitizer knows of the whole area
        for first, last in ((0, start), (start + size, area.nbytes)):
            self.machine.library.machine_forbid(area.ctypes.data + first, last - first, True)
            self._forbidden.append((area.ctypes.data + first, last - first))
        # its address stays taken until the device is closed
        self._kept.append(area)
        return torch.from_numpy(area[start : start + size]).view(dtype).view(shape)

    def _register(self, address: int, size: int, written: bool, read_only: bool) -> None:
        self.machine.library.machine_register(address, size, written, read_only)
        self.memory[address] = (size, read_only)


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_longlong(value) if isinstance(value, int) else ctypes.c_double(value)
