"""Which backend runs a call of layer_norm: what a choice may look at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch

from unmask_kernels.capability import triton_reasons
from unmask_kernels.dispatch import Backend, Family

__all__ = ["FAMILY", "LayerNormCall"]

MAX_TRITON_WIDTH = 4096  # wider rows spill registers


class LayerNormCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    dtype: torch.dtype
    width: int


def _triton_refuses(call: LayerNormCall) -> list[str]:
    reasons = triton_reasons(call.device)
    if call.dtype == torch.float64:
        reasons.append("activations must be fp16, bf16 or fp32, got float64")
    if call.width > MAX_TRITON_WIDTH:
        reasons.append(f"rows up to {MAX_TRITON_WIDTH} wide stay in registers, got {call.width}; use backend 'torch'")
    return reasons


FAMILY = Family(
    "layer_norm",
    {
        # `verified` gets an architecture once the GPU tests have passed there.
        "triton": Backend("unmask_kernels.layer_norm._triton", _triton_refuses, verified=()),
        "torch": Backend("unmask_kernels.layer_norm._torch"),
        "reference": Backend("unmask_kernels.layer_norm.reference"),
    },
)
