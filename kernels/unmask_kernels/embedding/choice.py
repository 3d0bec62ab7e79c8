"""Which backend runs a call of embedding: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family
from .arguments import Arguments

__all__ = ["FAMILY", "EmbeddingCall", "describe"]

MAX_TRITON_WIDTH = 4096  # wider rows spill registers
MAX_TRITON_SEGMENTS = 4


class EmbeddingCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    dtype: torch.dtype
    width: int
    segments: int


def describe(arguments: Arguments) -> EmbeddingCall:
    """The call as the choice sees it."""
    ids, width, segments = arguments.ids, arguments.word.shape[1], arguments.segment.shape[0]
    return EmbeddingCall(ids.device.type, architecture(ids), arguments.dtype, width, segments)


def _triton_refuses(call: EmbeddingCall) -> list[str]:
    reasons = triton_reasons(call.device, call.dtype, "dtype")
    if call.width > MAX_TRITON_WIDTH:
        reasons.append(f"rows up to {MAX_TRITON_WIDTH} wide stay in registers, got {call.width}; use backend 'torch'")
    if call.segments > MAX_TRITON_SEGMENTS:
        reasons.append(f"up to {MAX_TRITON_SEGMENTS} segments, got {call.segments}")
    return reasons


FAMILY = Family(
    "embedding",
    {"triton": Backend(_triton_refuses, verified=()), "torch": Backend(), "reference": Backend()},
    example=lambda device, architecture, dtype: EmbeddingCall(device, architecture, dtype, width=768, segments=2),
)
