"""The dtype of activations: bf16 where the machine multiplies it fast, else fp32. Parameters are always fp32.

"Fast" means instructions that multiply bf16 pairs and accumulate in fp32: tensor cores from sm_80 on, AVX512-BF16 or
AMX-BF16 on x86 CPUs. On CPUs oneDNN does the multiplication, and ONEDNN_MAX_CPU_ISA may forbid it these instructions.
Elsewhere bf16 is emulated: on a CPU with AVX2 only, a product takes a hundred times as long as in fp32.

fp16 has to be asked for. It is for GPUs with tensor cores for fp16 and none for bf16 (sm_70 and sm_75), and needs a
`loss_scale`.
"""

import os
from dataclasses import dataclass
from typing import Literal

import torch

__all__ = ["Precision", "choose_precision"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# the values of ONEDNN_MAX_CPU_ISA that exclude bf16
_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """The dtype of activations, and the reason for it."""

    dtype: torch.dtype
    reason: str


def choose_precision(
    requested: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: torch.device | str = "cpu",
    *,
    saved: bool = False,
) -> Precision:
    """Return the dtype of activations on `device`. An explicit request is honoured even if it is slow.

    Args:
        requested: the dtype, or auto.
        device: where the activations are.
        saved: whether auto chose the dtype, when the checkpoint to resume was made.
    """
    fast, why = _fast_bfloat16(torch.device(device))
    if requested == "auto":
        return Precision(dtype=torch.bfloat16 if fast else torch.float32, reason=why)
    if requested not in DTYPES:
        raise ValueError(f"precision: train.dtype must be auto, float32, bfloat16 or float16, got {requested!r}")
    slow = requested == "bfloat16" and not fast
    by = f"train.dtype is auto, and the checkpoint has {requested}" if saved else f"{requested} asked for"
    note = f"; {why}, so expect it to be slower than float32" if slow else ""
    if requested == "float16" and torch.device(device).type == "cpu":
        note = "; it is for GPUs, so expect it to be slower than float32"
    return Precision(dtype=DTYPES[requested], reason=f"{by}{note}")


def _fast_bfloat16(device: torch.device) -> tuple[bool, str]:
    """Return whether bf16 products are fast on `device`, and why."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})"
        if major >= 8:
            return True, f"{name} has bf16 tensor cores"
        way = "; its fp16 ones are faster: --train.dtype float16, in a new run" if major == 7 else ""
        return False, f"{name} has no bf16 tensor cores{way}"
    if device.type == "cpu":
        found = [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
        if found and limit in _WITHOUT_BF16:
            return False, f"ONEDNN_MAX_CPU_ISA is {limit}, which leaves {' and '.join(found)} unused"
        if found:
            return True, f"this CPU has {' and '.join(found)}"
        return False, "this CPU has neither amx_bf16 nor avx512_bf16"
    return False, f"no fast bf16 known on {device.type}"
