"""Which backend runs a call of layer_norm: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family
from ..tuned import Tunable
from .arguments import Arguments

__all__ = ["BLOCK", "FAMILY", "LayerNormCall", "describe", "shape"]

MAX_TRITON_WIDTH = 4096  # wider rows spill registers

# what torch works on at a time on a CPU, in percent of the usual block; `unmask tune` may change it
BLOCK = Tunable("layer_norm.block", 100, 25, 50, 200)


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


def shape(width: int, dtype: torch.dtype, *, dropout: bool) -> str:
    """What the best block depends on."""
    return f"{width} wide, {str(dtype).removeprefix('torch.')}" + (", dropout" if dropout else "")


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
