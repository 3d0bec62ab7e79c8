"""Which backend runs a call of layer_norm: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family
from .arguments import Arguments

__all__ = ["FAMILY", "LayerNormCall", "describe"]

MAX_TRITON_WIDTH = 4096  # wider rows spill registers


class LayerNormCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    dtype: torch.dtype
    width: int


def describe(arguments: Arguments) -> LayerNormCall:
    """The call as the choice sees it."""
    x = arguments.x
    return LayerNormCall(x.device.type, architecture(x), x.dtype, x.shape[1])


def _triton_refuses(call: LayerNormCall) -> list[str]:
    reasons = triton_reasons(call.device, call.dtype)
    if call.width > MAX_TRITON_WIDTH:
        reasons.append(f"rows up to {MAX_TRITON_WIDTH} wide stay in registers, got {call.width}; use backend 'torch'")
    return reasons


FAMILY = Family(
    "layer_norm",
    {"triton": Backend(_triton_refuses, verified=()), "torch": Backend(), "reference": Backend()},
    example=lambda device, architecture, dtype: LayerNormCall(device, architecture, dtype, width=768),
)
