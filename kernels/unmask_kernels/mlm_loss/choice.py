"""Which backend runs a call of mlm_loss: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family
from .arguments import Arguments

__all__ = ["FAMILY", "MLMLossCall", "describe"]


class MLMLossCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    dtype: torch.dtype
    vocabulary: int
    width: int


def describe(arguments: Arguments) -> MLMLossCall:
    """The call as the choice sees it."""
    hidden, (vocabulary, width) = arguments.hidden, arguments.weight.shape
    return MLMLossCall(hidden.device.type, architecture(hidden), hidden.dtype, vocabulary, width)


def _triton_refuses(call: MLMLossCall) -> list[str]:
    return triton_reasons(call.device, call.dtype, "hidden")


FAMILY = Family(
    "mlm_loss",
    {"triton": Backend(_triton_refuses, verified=()), "torch": Backend(), "reference": Backend()},
    example=lambda device, architecture, dtype: MLMLossCall(device, architecture, dtype, vocabulary=30522, width=768),
)
