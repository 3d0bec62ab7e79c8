"""Which backend runs a call of masking: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family
from .arguments import Arguments

__all__ = ["FAMILY", "MaskingCall", "describe"]

MAX_TRITON_DOCUMENT = 4096  # longer documents spill registers


class MaskingCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    max_seqlen: int


def describe(arguments: Arguments) -> MaskingCall:
    """The call as the choice sees it."""
    return MaskingCall(arguments.ids.device.type, architecture(arguments.ids), arguments.max_seqlen)


def _triton_refuses(call: MaskingCall) -> list[str]:
    reasons = triton_reasons(call.device)
    if call.max_seqlen > MAX_TRITON_DOCUMENT:
        reasons.append(
            f"documents up to {MAX_TRITON_DOCUMENT} tokens stay in registers, may be {call.max_seqlen} long; "
            "use backend 'torch'"
        )
    return reasons


def _covers(passed: MaskingCall, call: MaskingCall) -> bool:
    """A kernel's block is the power of two that holds the longest document."""
    block = 16
    while block < passed.max_seqlen:
        block *= 2
    same = (passed.device, passed.architecture) == (call.device, call.architecture)
    return same and call.max_seqlen <= block and (block == 16 or call.max_seqlen > block // 2)


FAMILY = Family(
    "masking",
    {"triton": Backend(_triton_refuses, verified=()), "torch": Backend(), "reference": Backend()},
    example=lambda device, architecture, dtype: MaskingCall(device, architecture, max_seqlen=512),
    covers=_covers,
)
