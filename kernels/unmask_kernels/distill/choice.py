"""Which backend runs a loss of distill: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family

__all__ = ["FAMILY", "GRAM_FROM", "DistillCall", "describe", "shape"]

GRAM_FROM = 256
"""Longer documents are compared by Gram matrices in the Triton backend; an element of `documents.BOUNDS`."""

# wider relations would spill
_WIDEST_TRITON = {"score": 128, "relation": 64}


class DistillCall(NamedTuple):
    """What the choice of a backend may depend on.

    Attributes:
        device, architecture: "cpu" and "cpu", or "cuda" and a compute capability such as "sm_90".
        dtype: of the student's activations.
        loss: "score", "relation", "hidden" or "prediction".
        student_width, teacher_width: elements of a head, columns of hidden states, or classes.
        banded: whether attention is causal or has a window.
        max_seqlen: bound on the length of a document; 0 where rows stand alone.
        captured: whether torch.compile or a CUDA graph records the call, so that nothing may wait for the device.
    """

    device: str
    architecture: str
    dtype: torch.dtype
    loss: str = "score"
    student_width: int = 64
    teacher_width: int = 64
    banded: bool = False
    max_seqlen: int = 512
    captured: bool = False


Loss = Literal["score", "relation", "hidden", "prediction"]


def describe(
    loss: Loss, student: Tensor, widths: tuple[int, int], *, banded: bool = False, max_seqlen: int = 0
) -> DistillCall:
    """The call on a tensor of the student as the choice sees it, traceable by the compiler.

    Args:
        loss: which one.
        student: gives device and dtype.
        widths: of student and teacher.
        banded, max_seqlen: as in `DistillCall`.
    """
    return DistillCall(
        device=student.device.type,
        architecture=architecture(student),
        dtype=student.dtype,
        loss=loss,
        student_width=widths[0],
        teacher_width=widths[1],
        banded=banded,
        max_seqlen=max_seqlen,
        captured=torch.compiler.is_compiling() or (student.is_cuda and torch.cuda.is_current_stream_capturing()),
    )


def _reads_lengths(call: DistillCall) -> list[str]:
    if call.loss in ("score", "relation") and call.device == "cuda" and call.captured:
        return ["it reads the lengths on the host, which torch.compile and CUDA graphs cannot hold"]
    return []


def _triton_refuses(call: DistillCall) -> list[str]:
    reasons = triton_reasons(call.device, call.dtype)
    widest = max(call.student_width, call.teacher_width)
    if widest > (most := _WIDEST_TRITON.get(call.loss, widest)):
        reasons.append(f"heads, or groups of heads, must have at most {most} elements, got {widest}")
    return reasons


def _covers(passed: DistillCall, call: DistillCall) -> bool:
    """A pass covers other lengths, on the same side of where the kernels change."""
    sides = {one.max_seqlen > GRAM_FROM for one in (passed, call)}
    return len(sides) == 1 and passed._replace(max_seqlen=0, captured=False) == call._replace(
        max_seqlen=0, captured=False
    )


def shape(call: DistillCall) -> str:
    """What it depends on which backend is the fastest."""
    widths = f"{call.student_width} and {call.teacher_width} wide"
    return f"{call.loss}, {widths}, {str(call.dtype).removeprefix('torch.')}"


FAMILY = Family(
    "distill",
    {
        "triton": Backend(_triton_refuses, verified=()),
        "torch": Backend(_reads_lengths),
        "reference": Backend(_reads_lengths),
    },
    example=DistillCall,
    covers=_covers,
    shape=shape,
)
