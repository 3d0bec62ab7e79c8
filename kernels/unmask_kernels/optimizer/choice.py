"""Which backend runs an update: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..capability import architecture
from ..dispatch import Backend, Family
from ..extension import cuda_reasons
from .arguments import Arguments

__all__ = ["FAMILY", "OptimizerCall", "describe", "shape"]


class OptimizerCall(NamedTuple):
    """What the choice of a backend may depend on.

    Attributes:
        device: "cpu" or "cuda".
        architecture: "cpu", or the compute capability such as "sm_90".
        dtype: of parameters and moments.
        grad_dtype: of gradients, such as "float32".
        copy_dtype: of the copies; "none" without copies.
        algorithm: "adamw" or "lamb".
        clip_update: whether large updates are clipped.
        clip_norm: whether the global norm is wanted.
        contiguous: whether every tensor is.
        bias_correction: whether the moments are corrected; PyTorch's fused kernel always does.
    """

    device: str
    architecture: str
    dtype: torch.dtype
    grad_dtype: str
    copy_dtype: str
    algorithm: str
    clip_update: bool
    clip_norm: bool
    contiguous: bool
    bias_correction: bool = True


def describe(arguments: Arguments) -> OptimizerCall:
    """The call as the choice sees it. There is at least one parameter."""
    param, grad, copies = arguments.params[0], arguments.grads[0], arguments.copies
    device = param.device.type
    lists = (arguments.params, arguments.grads, arguments.exp_avg, arguments.exp_avg_sq, copies)
    return OptimizerCall(
        device=device,
        architecture=architecture(param),
        dtype=param.dtype,
        grad_dtype=_name(grad.dtype),
        copy_dtype=_name(copies[0].dtype) if copies else "none",
        algorithm=arguments.algorithm,
        clip_update=arguments.clip_update,
        clip_norm=arguments.norm is not None,
        # on a CPU no backend asks
        contiguous=device == "cpu" or all(x.is_contiguous() for each in lists for x in each),
        bias_correction=arguments.bias_correction,
    )


def _cuda_refuses(call: OptimizerCall) -> list[str]:
    reasons = list(cuda_reasons(call.device, call.architecture))
    if call.dtype != torch.float32:
        reasons.append(f"parameters and moments must be fp32, got {_name(call.dtype)}")
    if call.grad_dtype not in ("float32", "bfloat16", "float16"):
        reasons.append(f"gradients must be fp32, bf16 or fp16, got {call.grad_dtype}")
    if not call.contiguous:
        reasons.append("parameters, gradients, moments and copies must be contiguous; use backend 'torch'")
    return reasons


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _covers(passed: OptimizerCall, call: OptimizerCall) -> bool:
    """What was right with a norm and with copies is right without; each pass has cases with and without correction."""
    asks_more = passed.clip_norm >= call.clip_norm and call.copy_dtype in ("none", passed.copy_dtype)
    return asks_more and passed == call._replace(
        clip_norm=passed.clip_norm, copy_dtype=passed.copy_dtype, bias_correction=passed.bias_correction
    )


def shape(call: OptimizerCall) -> str:
    """What it depends on which backend is the fastest."""
    algorithm = "stable_adamw" if call.clip_update else call.algorithm
    corrected = "" if call.bias_correction else " without bias correction"
    copies = "" if call.copy_dtype == "none" else f", {call.copy_dtype} copies"
    return f"{algorithm}{corrected}, {call.grad_dtype} gradients{copies}"


FAMILY = Family(
    "optimizer",
    {"cuda": Backend(_cuda_refuses, verified=()), "torch": Backend(), "reference": Backend()},
    covers=_covers,
    example=lambda device, architecture, dtype: OptimizerCall(
        device, architecture, torch.float32, "float32", "none", "adamw", False, False, True
    ),
    shape=shape,
)
