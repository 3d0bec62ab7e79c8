"""Dtype rules every family follows: the accumulation dtype, and what happens under somebody else's autocast.

The engine sets no ambient autocast: parameters stay fp32, activations have the encoder's compute dtype. Under
a foreign `torch.autocast` the public function casts its activations to the autocast dtype and the operation
runs with autocast disabled, so eager and compiled code agree and no operation inside is cast a second time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["accumulation_dtype", "autocast_dtype", "autocasts", "under_autocast", "without_autocast"]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of sums, statistics and parameters beside activations of `dtype`: fp64 for fp64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype to cast the activation `x` to: its own unless autocast is on."""
    return under_autocast(x.dtype, x.device.type)


def autocasts(device: str) -> bool:
    """Whether autocast is on for a device type."""
    # PyTorch raises an error for `meta`, on which tensors have shapes and no values
    return device != "meta" and torch.is_autocast_enabled(device)


def under_autocast(dtype: torch.dtype, device: str) -> torch.dtype:
    """What activations of `dtype` are cast to on a device type: autocast's dtype where it is on; fp64 is left alone."""
    if not autocasts(device) or dtype == torch.float64:
        return dtype
    return torch.get_autocast_dtype(device)


def without_autocast(device: str) -> AbstractContextManager[object]:
    """A context in which autocast is off; free when it already is."""
    return torch.autocast(device, enabled=False) if autocasts(device) else nullcontext()
