"""Which backend runs a call of linear_gelu: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family

__all__ = ["FAMILY", "LinearGeluCall", "describe"]


class LinearGeluCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    dtype: torch.dtype


def describe(x: Tensor) -> LinearGeluCall:
    """The call on x (T, D), in the dtype that it computes in, as the choice sees it."""
    return LinearGeluCall(x.device.type, architecture(x), x.dtype)


def _triton_refuses(call: LinearGeluCall) -> list[str]:
    reasons = triton_reasons(call.device)
    if call.dtype == torch.float64:
        reasons.append("activations must be fp16, bf16 or fp32, got float64")
    return reasons


FAMILY = Family(
    "linear_gelu",
    {
        # `verified` gets an architecture once the GPU tests have passed there and it has beaten product and gelu.
        "triton": Backend("unmask_kernels.linear_gelu._triton", _triton_refuses, verified=()),
        "torch": Backend("unmask_kernels.linear_gelu.composed"),
        "reference": Backend("unmask_kernels.linear_gelu.reference"),
    },
    example=lambda device, architecture, dtype: LinearGeluCall(device, architecture, dtype),
)
