"""Which backend runs a call of linear_gelu: what the choice looks at, what each backend refuses, and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..capability import architecture, triton_reasons
from ..dispatch import Backend, Family

__all__ = ["FAMILY", "LinearGeluCall", "describe", "shape"]


class LinearGeluCall(NamedTuple):
    """What the choice of a backend may depend on; depth and width are those of the product, D and N."""

    device: str
    architecture: str
    dtype: torch.dtype
    activation: str = "gelu"
    depth: int = 768
    width: int = 3072


def describe(x: Tensor, weight: Tensor, activation: str) -> LinearGeluCall:
    """The call on x (T, D), in the dtype that it computes in, and weight (N, D), as the choice sees it."""
    return LinearGeluCall(x.device.type, architecture(x), x.dtype, activation, x.shape[1], weight.shape[0])


def _triton_refuses(call: LinearGeluCall) -> list[str]:
    return triton_reasons(call.device, call.dtype)


def shape(call: LinearGeluCall) -> str:
    """What it depends on which backend, and which tile of it, is the fastest."""
    return f"{call.depth} to {call.width}, {call.activation}, {str(call.dtype).removeprefix('torch.')}"


FAMILY = Family(
    "linear_gelu",
    {
        # `verified` gets an architecture once the backend has also beaten product and gelu there.
        "triton": Backend(_triton_refuses, verified=(), must_win=True),
        "torch": Backend(module="unmask_kernels.linear_gelu.composed"),
        "reference": Backend(),
    },
    example=LinearGeluCall,
    shape=shape,
)
