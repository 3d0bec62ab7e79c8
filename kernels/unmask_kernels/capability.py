"""Facts about this machine that decide which backend can run, read once.

Everything here is a constant or a traceable function, so that choosing a backend stays inside a compiled graph.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

__all__ = ["HAS_TRITON", "INTERPRETING", "architecture", "triton_reasons"]

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
