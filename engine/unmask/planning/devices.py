"""The devices that a run is planned for: this machine, or a GPU by its name.

Memory of GPUs is that of the vendors' data sheets, and so is their speed (`logging.metrics.PEAK_TFLOPS`). A data sheet
counts decimal gigabytes for some and binary ones for others; of each the smaller is taken.
"""

from __future__ import annotations

import difflib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from unmask.errors import ConfigError
from unmask.train.logging.metrics import PEAK_TFLOPS, peak_flops
from unmask.train.logging.provenance import processor

__all__ = ["GPUS", "Device", "available_memory", "named_gpu", "resident_bytes", "this_machine"]

_CGROUPS = Path("/sys/fs/cgroup")
# what the context of CUDA takes, and the buffers of libraries for a thread on a CPU
_CONTEXT_BYTES = 600 * 10**6
_THREAD_BYTES = 16 << 20
# of the memory of a step, the gaps of allocators and what operations allocate inside
_GAPS = {"cuda": 0.05, "cpu": 0.1}

_GIGABYTES = {
    "B200": 180,
    "GH200": 96,
    "H200 NVL": 141,
    "H200": 141,
    "H100 PCIe": 80,
    "H100 NVL": 94,
    "H100": 80,
    "A100 40GB": 40,
    "A100 80GB": 80,
    "L40S": 48,
    "L40": 48,
    "L4": 24,
    "RTX 6000 Ada": 48,
    "RTX A6000": 48,
    "A40": 48,
    "A10": 24,
    "RTX 4090": 24,
    "RTX 3090": 24,
}
GPUS = tuple(_GIGABYTES)
"""Names of the GPUs that a run can be planned for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What a run may use.

    Attributes:
        kind: `cpu` or `cuda`.
        name: of the processor or GPU.
        memory: bytes that are free for the run; None if the system does not tell.
        peak: bf16 operations per second of the data sheet, or None.
        here: whether it is a device of this machine.
    """

    kind: str
    name: str
    memory: int | None
    peak: float | None
    here: bool

    def overhead(self, passing: int) -> int:
        """Return the bytes that a process needs beside a step, of which `passing` bytes come and go in each step."""
        begin = _CONTEXT_BYTES
        if self.kind == "cpu":
            begin = resident_bytes() + torch.get_num_threads() * _THREAD_BYTES
        return begin + round(_GAPS[self.kind] * passing)


def this_machine() -> Device:
    """Return the device that `unmask pretrain` would take here."""
    if not torch.cuda.is_available():
        return Device(kind="cpu", name=processor(), memory=available_memory(), peak=None, here=True)
    free, _ = torch.cuda.mem_get_info()
    return Device(kind="cuda", name=torch.cuda.get_device_name(), memory=free, peak=peak_flops("cuda"), here=True)


def named_gpu(name: str) -> Device:
    """Return a GPU by its name in `GPUS`; case does not count.

    Raises:
        ConfigError: no such GPU is known.
    """
    known = {gpu.lower(): gpu for gpu in GPUS}
    found = known.get(name.strip().lower())
    if found is None:
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean '{known[close[0]]}'?" if close else f"give one of {', '.join(GPUS)}"
        raise ConfigError(f"plan: device {name!r} is not known; {hint}")
    peak = PEAK_TFLOPS[found.removesuffix(" 40GB").removesuffix(" 80GB")] * 1e12
    return Device(kind="cuda", name=found, memory=_GIGABYTES[found] * 10**9, peak=peak, here=False)


def available_memory() -> int | None:
    """Return the bytes that this process may still take, by the system and by the limit of its container."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        found.append(int(kilobytes) << 10)
    # version 2, then version 1
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            found.append(int((_CGROUPS / limit).read_text()) - int((_CGROUPS / used).read_text()))
    if not found:
        with suppress(AttributeError, ValueError, OSError):
            found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return max(0, min(found)) if found else None


def resident_bytes() -> int:
    """Return the memory of this process that lies in RAM; 0 if the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
