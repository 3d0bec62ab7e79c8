"""Facts about this machine that decide which backend can run, read once.

Everything here is a constant or a traceable function, so that choosing a backend stays inside a compiled graph.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["HAS_TRITON", "INTERPRETING", "architecture", "device_names", "processor_name", "triton_reasons"]

HAS_TRITON: bool = importlib.util.find_spec("triton") is not None
"""Whether the `triton` package is installed; it is imported only inside a launcher."""

INTERPRETING: bool = os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on")
"""Whether Triton kernels run in its interpreter on the CPU (environment variable TRITON_INTERPRET=1)."""


def architecture(x: Tensor) -> str:
    """ "cpu", or the compute capability of the tensor's GPU as in "sm_90"."""
    if x.device.type != "cuda":
        return x.device.type
    properties = torch.cuda.get_device_properties(x.device)
    return f"sm_{properties.major}{properties.minor}"


_names: dict[str, tuple[str, ...]] = {}


def device_names(architecture: str) -> tuple[str, ...]:
    """The names of the GPUs of this machine with a compute capability, or that of the processor for "cpu"."""
    if architecture not in _names:
        if architecture.startswith("sm_"):
            gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
            here = [gpu.name for gpu in gpus if f"sm_{gpu.major}{gpu.minor}" == architecture]
        else:
            here = [processor_name()]
        _names[architecture] = tuple(dict.fromkeys(here))
    return _names[architecture]


# what `torch.compiler.assume_constant_result` sets; that imports the whole compiler
device_names._dynamo_marked_constant = True  # type: ignore[attr-defined]


def processor_name() -> str:
    """The processor's model name, or its architecture if the system does not tell the name."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"Triton's interpreter on {name}" if INTERPRETING else name


def triton_reasons(device: str, dtype: torch.dtype | None = None, activations: str = "activations") -> list[str]:
    """Why no Triton backend runs on this kind of device or in this dtype of the tensors that a family names so."""
    reasons = []
    if not HAS_TRITON:
        reasons.append("package triton is not installed (pip install triton)")
    if device != "cuda" and not INTERPRETING:
        reasons.append(f"needs a CUDA tensor, got {device} (TRITON_INTERPRET=1 runs the interpreter, for tests)")
    if dtype == torch.float64:
        reasons.append(f"{activations} must be fp16, bf16 or fp32, got float64")
    return reasons
