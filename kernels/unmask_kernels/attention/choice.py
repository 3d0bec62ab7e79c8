"""Which backend runs a call of attention: what a choice may look at, what each backend refuses, and their order.

Three versions of flash-attn are known to the backend "flash", and a call gets the best one that is installed and runs
it:

    2   package flash-attn         Ampere and newer; Dao 2023, arXiv:2307.08691
    3   package flash_attn_3       Hopper only; Shah et al. 2024, arXiv:2407.08608
    4   package flash-attn-4       Hopper and Blackwell, in CuTe DSL; no backward for sm_80, and for sm_120 none that
                                   repeats its bits

None of them runs dropout here: version 2 has dropout, but not from our addressed random numbers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family
from . import tunables
from .arguments import Arguments, BackwardArguments

__all__ = ["FAMILY", "FLASH_ATTN_INSTALLED", "AttentionCall", "describe", "saves_keep", "saves_lse", "varlen_refuses"]

_WIDEST_TRITON = 128

_HAS_VARLEN = torch.backends.cuda.is_flash_attention_available()
_WIDEST_VARLEN = 192
_LONGEST_KEPT = 1024
_LITTLE_SHARED_MEMORY = ("sm_86", "sm_89", "sm_120", "sm_121")


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


def describe(arguments: Arguments | BackwardArguments) -> AttentionCall:
    """The call as the choice sees it, traceable by the compiler."""
    qkv = arguments.qkv
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


def _triton_refuses(call: AttentionCall) -> list[str]:
    reasons = triton_reasons(call.device, call.dtype)
    if call.head_dim > _WIDEST_TRITON:
        reasons.append(f"head dim must be at most {_WIDEST_TRITON}, got {call.head_dim}")
    if call.dtype == torch.float32 and call.head_dim > 64 and call.architecture in _LITTLE_SHARED_MEMORY:
        reasons.append(
            f"fp32 with heads wider than 64 takes 147 KB of shared memory, {call.architecture} has 99; use bf16 or fp16"
        )
    return reasons


class _FlashAttn(NamedTuple):
    """A version of flash-attn.

    Attributes:
        package: what to install.
        runs_on: whether it has a deterministic backward for a compute capability such as 90.
        where: the same in words.
        widest: largest head dim.
    """

    package: str
    runs_on: Callable[[int], bool]
    where: str
    widest: int


# best first
_FLASH_ATTN = {
    3: _FlashAttn("flash_attn_3", lambda capability: capability == 90, "sm_90", 192),
    4: _FlashAttn("flash-attn-4", lambda capability: 90 <= capability < 120, "sm_90 to sm_110", 128),
    2: _FlashAttn("flash-attn", lambda capability: capability >= 80, "sm_80 and newer", 192),
}


def _find_flash_attn() -> tuple[int, ...]:
    """The versions on this machine, best first, found without importing them, because that loads CUDA libraries."""
    found = []
    if importlib.util.find_spec("flash_attn_interface") is not None:
        found.append(3)
    # version 4 lives in a folder of the package of version 2, which looking for "flash_attn.cute" would import
    spec = importlib.util.find_spec("flash_attn")
    folders = [] if spec is None else spec.submodule_search_locations or []
    has_files = any((Path(folder) / "cute" / "interface.py").is_file() for folder in folders)
    if has_files and importlib.util.find_spec("cutlass") is not None:
        found.append(4)
    if importlib.util.find_spec("flash_attn_2_cuda") is not None:
        found.append(2)
    return tuple(found)


# found once: a choice is traced by the compiler, which must not look for files
FLASH_ATTN_INSTALLED: tuple[int, ...] = _find_flash_attn()
"""Versions of flash-attn on this machine, best first."""


def flash_attn_version(call: AttentionCall) -> int | None:
    """The version of flash-attn that runs the call; None where each refuses."""
    return next((version for version in FLASH_ATTN_INSTALLED if not _version_refuses(version, call)), None)


def _version_refuses(version: int, call: AttentionCall) -> list[str]:
    flash_attn = _FLASH_ATTN[version]
    reasons = []
    capability = call.architecture.removeprefix("sm_")
    if not (capability.isdecimal() and flash_attn.runs_on(int(capability))):
        reasons.append(f"its backward is for {flash_attn.where}, this device is {call.architecture}")
    if call.head_dim % 8 or call.head_dim > flash_attn.widest:
        reasons.append(f"head dim must be a multiple of 8 up to {flash_attn.widest}, got {call.head_dim}")
    return reasons


def _flash_refuses(call: AttentionCall) -> list[str]:
    reasons = []
    if call.device != "cuda":
        reasons.append(f"needs a CUDA tensor, got {call.device}")
    if not FLASH_ATTN_INSTALLED:
        packages = ", ".join(each.package for each in _FLASH_ATTN.values())
        reasons.append(f"flash-attn is not installed (one of the packages {packages})")
    if call.dtype not in (torch.float16, torch.bfloat16):
        reasons.append(f"activations must be fp16 or bf16, got {str(call.dtype).removeprefix('torch.')}")
    if call.p > 0.0:
        reasons.append(f"no dropout from addressed random numbers, got p {call.p:g}")
    if not reasons and flash_attn_version(call) is None:
        reasons += [f"flash-attn {each}: {'; '.join(_version_refuses(each, call))}" for each in FLASH_ATTN_INSTALLED]
    return reasons


def varlen_refuses(call: AttentionCall) -> list[str]:
    """Why PyTorch's own attention on packed documents, `varlen_attn`, cannot run the call."""
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


def _covers(passed: AttentionCall, call: AttentionCall) -> bool:
    """A pass covers documents up to the power of two behind those that were run: kernels change at some of these."""
    bound = 64
    while bound < passed.max_seqlen:
        bound *= 2
    return (
        (passed.device, passed.architecture, passed.dtype) == (call.device, call.architecture, call.dtype)
        and (passed.head_dim, passed.causal) == (call.head_dim, call.causal)
        and (passed.window < 0) == (call.window < 0)
        and (passed.p > 0.0) == (call.p > 0.0)
        and call.max_seqlen <= bound
    )


def _shape(call: AttentionCall) -> str:
    banded = call.causal or call.window >= 0
    return tunables.shape(call.head_dim, call.dtype, dropout=call.p > 0.0, banded=banded)


FAMILY = Family(
    "attention",
    {
        "triton": Backend(_triton_refuses, verified=()),
        "flash": Backend(_flash_refuses, verified=()),
        "torch": Backend(_torch_refuses),
        "reference": Backend(_reads_lengths),
    },
    example=lambda device, architecture, dtype: AttentionCall(
        device, architecture, dtype, head_dim=64, causal=False, window=-1, p=0.1, max_seqlen=512, captured=False
    ),
    covers=_covers,
    shape=_shape,
)


def saves_keep(backend: str, call: AttentionCall) -> bool:
    """Whether the forward of `backend` saves what dropout keeps for its backward; see `arguments.Results`.

    On a CPU, drawing takes longer than the softmax. The bits of documents of 1,024 tokens take as many bytes as 32
    columns of activations in fp32 for each head. The bits of longer documents are drawn again.
    """
    return backend == "torch" and call.device == "cpu" and call.p > 0.0 and call.max_seqlen <= _LONGEST_KEPT


def saves_lse(backend: str, call: AttentionCall) -> bool:
    """Whether the forward of `backend` saves the log-sum-exp, fp32 (H, T), for its backward; else it saves (0,)."""
    return backend in ("triton", "flash") or (backend == "torch" and not varlen_refuses(call))
