"""Which backend runs a call of gelu: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family
from .arguments import Arguments

__all__ = ["FAMILY", "GeluCall", "describe"]


class GeluCall(NamedTuple):
    """What the choice of a backend may depend on; width is that of x."""

    device: str
    architecture: str
    dtype: torch.dtype
    activation: str = "gelu"
    width: int = 3072


def describe(arguments: Arguments) -> GeluCall:
    """The call as the choice sees it."""
    x = arguments.x
    return GeluCall(x.device.type, architecture(x), x.dtype, arguments.activation, x.shape[1])


def _triton_refuses(call: GeluCall) -> list[str]:
    return triton_reasons(call.device, call.dtype)


FAMILY = Family(
    "gelu",
    {"triton": Backend(_triton_refuses, verified=()), "torch": Backend(), "reference": Backend()},
    example=GeluCall,
)
