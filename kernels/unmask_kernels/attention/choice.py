"""Which backend runs a call of attention: what a choice may look at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family
from . import flash_versions
from .arguments import Arguments

__all__ = ["FAMILY", "AttentionCall", "describe", "saves_statistics", "varlen_refuses"]

_HAS_VARLEN = torch.backends.cuda.is_flash_attention_available()
_WIDEST_VARLEN = 192

TRITON_HEAD_DIMS = (32, 64, 96, 128)


class AttentionCall(NamedTuple):
    """What the choice of a backend may depend on.

    Attributes:
        device, architecture: "cpu" and "cpu", or "cuda" and a compute capability such as "sm_90".
        dtype: of qkv.
        head_dim: K.
        causal: whether a row sees only columns up to its own.
        window: columns seen on either side of a row's own, -1 for all.
        p: probability of dropping an attention probability.
        max_seqlen: bound on the length of a document.
        captured: whether torch.compile or a CUDA graph records the call, so that nothing may wait for the device.
    """

    device: str
    architecture: str
    dtype: torch.dtype
    head_dim: int
    causal: bool
    window: int
    p: float
    max_seqlen: int
    captured: bool


def describe(qkv: Tensor, arguments: Arguments) -> AttentionCall:
    """The call on qkv (T, 3, H, K), traceable by the compiler."""
    captured = torch.compiler.is_compiling() or (qkv.is_cuda and torch.cuda.is_current_stream_capturing())
    return AttentionCall(
        device=qkv.device.type,
        architecture=architecture(qkv),
        dtype=qkv.dtype,
        head_dim=qkv.shape[3],
        causal=arguments.causal,
        window=arguments.window,
        p=arguments.p,
        max_seqlen=arguments.max_seqlen,
        captured=captured,
    )


_LITTLE_SHARED_MEMORY = ("sm_86", "sm_89", "sm_120", "sm_121")


def _triton_refuses(call: AttentionCall) -> list[str]:
    reasons = triton_reasons(call.device)
    if call.dtype == torch.float64:
        reasons.append("activations must be fp16, bf16 or fp32, got float64")
    if call.head_dim not in TRITON_HEAD_DIMS:
        reasons.append(f"head dim must be one of {', '.join(map(str, TRITON_HEAD_DIMS))}, got {call.head_dim}")
    if call.dtype == torch.float32 and call.head_dim > 64 and call.architecture in _LITTLE_SHARED_MEMORY:
        reasons.append(
            f"fp32 with heads wider than 64 takes 147 KB of shared memory, {call.architecture} has 99; use bf16 or fp16"
        )
    return reasons


def varlen_refuses(call: AttentionCall) -> list[str]:
    """Why PyTorch's attention on packed documents cannot run the call."""
    reasons = []
    if call.device != "cuda":
        reasons.append(f"varlen_attn needs a CUDA tensor, got {call.device}")
    elif not _HAS_VARLEN:
        reasons.append("this PyTorch is built without varlen_attn")
    elif int(call.architecture.removeprefix("sm_")) < 80:
        reasons.append(f"varlen_attn needs sm_80 or newer, this device is {call.architecture}")
    if call.dtype not in (torch.float16, torch.bfloat16):
        reasons.append(f"varlen_attn is for fp16 and bf16, got {str(call.dtype).removeprefix('torch.')}")
    if call.head_dim % 8 or call.head_dim > _WIDEST_VARLEN:
        reasons.append(f"varlen_attn has head dims that are multiples of 8 up to {_WIDEST_VARLEN}, got {call.head_dim}")
    if call.p > 0.0:
        reasons.append(f"varlen_attn has no dropout, got p {call.p:g}")
    return reasons


def _torch_refuses(call: AttentionCall) -> list[str]:
    reasons = varlen_refuses(call)
    return [*_reads_lengths(call), *reasons] if reasons and _reads_lengths(call) else []


def _reads_lengths(call: AttentionCall) -> list[str]:
    if call.device == "cuda" and call.captured:
        return ["it reads the lengths on the host, which torch.compile and CUDA graphs cannot hold"]
    return []


FAMILY = Family(
    "attention",
    {
        # `verified` gets an architecture once the GPU tests have passed there.
        "triton": Backend("unmask_kernels.attention._triton", _triton_refuses, verified=()),
        "flash": Backend("unmask_kernels.attention._flash", flash_versions.refusals, verified=()),
        "torch": Backend("unmask_kernels.attention._torch", _torch_refuses),
        "reference": Backend("unmask_kernels.attention.reference", _reads_lengths),
    },
    example=lambda device, architecture, dtype: AttentionCall(
        device, architecture, dtype, head_dim=64, causal=False, window=-1, p=0.1, max_seqlen=512, captured=False
    ),
)


def saves_statistics(backend: str, call: AttentionCall) -> bool:
    """Whether the forward of `backend` returns a log-sum-exp, fp32 (H, T), for its backward; empty otherwise."""
    return backend in ("triton", "flash") or (backend == "torch" and not varlen_refuses(call))
