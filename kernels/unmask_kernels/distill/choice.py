"""Which backend runs a loss of distill: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family

__all__ = ["FAMILY", "DistillCall", "describe"]


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


def describe(loss: Loss, student: Tensor, teacher: Tensor, *, banded: bool = False, max_seqlen: int = 0) -> DistillCall:
    """The call on a tensor of the student and one of the teacher as the choice sees it, traceable by the compiler."""
    return DistillCall(
        device=student.device.type,
        architecture=architecture(student),
        dtype=student.dtype,
        loss=loss,
        student_width=student.shape[-1],
        teacher_width=teacher.shape[-1],
        banded=banded,
        max_seqlen=max_seqlen,
        captured=torch.compiler.is_compiling() or (student.is_cuda and torch.cuda.is_current_stream_capturing()),
    )


def _reads_lengths(call: DistillCall) -> list[str]:
    if call.loss in ("score", "relation") and call.device == "cuda" and call.captured:
        return ["it reads the lengths on the host, which torch.compile and CUDA graphs cannot hold"]
    return []


def _triton_refuses(call: DistillCall) -> list[str]:
    return triton_reasons(call.device, call.dtype)


FAMILY = Family(
    "distill",
    {"torch": Backend(_reads_lengths), "reference": Backend(_reads_lengths)},
    example=DistillCall,
)
