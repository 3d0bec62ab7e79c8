"""Which backend runs a call of attention: what a choice may look at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..capability import architecture
from ..dispatch import Backend, Family

__all__ = ["FAMILY", "AttentionCall", "describe", "saves_statistics"]


class AttentionCall(NamedTuple):
    """What the choice of a backend may depend on.

    Attributes:
        device, architecture: "cpu" and "cpu", or "cuda" and a compute capability such as "sm_90".
        dtype: of qkv.
        head_dim: K.
        causal: whether a row sees only columns up to its own.
        window: columns seen on either side of a row's own, -1 for all.
        p: probability of dropping an attention probability.
        longest: bound on the length of a document.
        captured: whether torch.compile or a CUDA graph records the call, so that nothing may wait for the device.
    """

    device: str
    architecture: str
    dtype: torch.dtype
    head_dim: int
    causal: bool
    window: int
    p: float
    longest: int
    captured: bool


def describe(qkv: Tensor, p: float, causal: bool, window: int, longest: int) -> AttentionCall:
    """The call on qkv (T, 3, H, K), traceable by the compiler."""
    captured = torch.compiler.is_compiling() or (qkv.is_cuda and torch.cuda.is_current_stream_capturing())
    return AttentionCall(
        qkv.device.type, architecture(qkv), qkv.dtype, qkv.shape[3], causal, window, p, longest, captured
    )


def _nothing_refused(call: AttentionCall) -> list[str]:
    return []


FAMILY = Family(
    "attention",
    {
        "torch": Backend("unmask_kernels.attention._torch", _nothing_refused),
        "reference": Backend("unmask_kernels.attention.reference", _nothing_refused),
    },
)


def saves_statistics(backend: str, call: AttentionCall) -> bool:
    """Whether the forward of `backend` returns a log-sum-exp, fp32 (H, T), for its backward; empty otherwise."""
    return backend == "triton"
