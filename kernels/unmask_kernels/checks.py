"""Argument checks. Their errors say which argument, what is needed, what came, and the way out.

The checks look at shapes, dtypes and devices, so they never wait for a GPU and disappear under `torch.compile`. Only
`contents` reads a tensor: on a CPU, and on a GPU when UNMASK_DEBUG=1 asks for it. An argument that is None passes: it
is optional.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "contents",
    "dtype",
    "last_dim_contiguous",
    "probability",
    "random_address",
    "rank",
    "reads_contents",
    "same_device",
    "shape",
]

DEBUG: bool = os.environ.get("UNMASK_DEBUG", "").strip().lower() not in ("", "0", "false", "no", "off")
"""Whether contents are checked on a GPU too (environment variable UNMASK_DEBUG=1); each check waits for the device."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32)


def _names(dtypes: Sequence[torch.dtype]) -> str:
    names = [str(d).removeprefix("torch.") for d in dtypes]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def rank(family: str, name: str, x: Tensor, dims: str) -> None:
    """`x` must have as many dimensions as `dims` names, as in "(T, D)"."""
    if x.dim() != dims.count(",") + (0 if dims.endswith(",)") else 1):
        raise ValueError(f"{family}: {name} must have shape {dims}, got {tuple(x.shape)}")


def shape(family: str, name: str, x: Tensor | None, expected: tuple[int, ...], why: str) -> None:
    """`x` must have exactly the `expected` shape; `why` says where that comes from."""
    if x is not None and tuple(x.shape) != expected:
        raise ValueError(f"{family}: {name} must have shape {expected}, {why}, got {tuple(x.shape)}")


def dtype(family: str, name: str, x: Tensor | None, allowed: Sequence[torch.dtype]) -> None:
    """`x` must have one of the `allowed` dtypes."""
    if x is not None and x.dtype not in allowed:
        raise TypeError(f"{family}: {name} must be {_names(allowed)}, got {_names([x.dtype])}")


def same_device(family: str, first: str, x: Tensor, **others: Tensor | None) -> None:
    """All `others` must be on the device of `x`."""
    for name, other in others.items():
        if other is not None and other.device != x.device:
            raise ValueError(
                f"{family}: {name} must be on {x.device}, the device of {first}, got {other.device}; "
                f"move it with {name}.to({str(x.device)!r})"
            )


def last_dim_contiguous(family: str, name: str, x: Tensor) -> None:
    """The last dimension of `x` must have stride 1."""
    if x.numel() and x.stride(-1) != 1:
        raise ValueError(
            f"{family}: {name} must be contiguous in its last dimension, got strides {x.stride()}; "
            f"call {name}.contiguous()"
        )


def probability(family: str, name: str, p: float) -> None:
    """A dropout probability must lie in [0, 1 - 2**-16]: random numbers of 16 bits cannot tell a larger one from 1."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"{family}: {name} must be at least 0 and below 1, got {p}")
    if p > 1.0 - 2.0**-16:
        raise ValueError(f"{family}: {name} must be at most 1 - 2**-16, the step of dropout's random numbers, got {p}")


def random_address(family: str, p: float, key: Tensor | None, **addresses: Tensor | None) -> None:
    """With dropout, a call needs its random address: a scalar int64 key and int64 keys of its rows."""
    if p == 0.0:
        return
    for name, value in {"key": key, **addresses}.items():
        if value is None:
            raise ValueError(
                f"{family}: p is {p}, so {name} is needed to address the random numbers; "
                "take keys from philox.dropout_keys and row_keys from Documents, or pass p=0.0"
            )
        if value.dtype != torch.int64:
            raise TypeError(f"{family}: {name} must be int64, got {_names([value.dtype])}")
    assert key is not None
    if key.dim() != 0:
        raise ValueError(f"{family}: key must be a scalar tensor, got shape {tuple(key.shape)}")


def reads_contents(x: Tensor) -> bool:
    """Whether a check may read `x`: on a CPU, in debug mode on a GPU, never in a compiled graph, which it would cut."""
    return not torch.compiler.is_compiling() and (x.device.type == "cpu" or DEBUG)


def contents(family: str, name: str, x: Tensor | None, bound: int, why: str) -> None:
    """Every element of the integer tensor `x` must lie in [0, bound); `why` says where that comes from.

    The tensor is read only where `reads_contents` allows it.
    """
    if x is None or x.numel() == 0 or not reads_contents(x):
        return
    lowest, highest = (int(end) for end in x.aminmax())
    if lowest < 0 or highest >= bound:
        found = lowest if lowest < 0 else highest
        raise ValueError(f"{family}: {name} must be in [0, {bound}), {why}, got {found}")
