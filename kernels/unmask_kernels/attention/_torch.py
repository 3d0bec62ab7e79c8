"""Attention by PyTorch: its kernel for packed documents where that runs the call, else products of documents in groups.

`_varlen` needs a GPU from sm_80 on, 16 bits and no dropout, and waits for nothing. `_grouped` runs everything, with
next to no padding, but reads the lengths on the host: free on a CPU, on a GPU a wait for the device, several a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _grouped, _varlen
from .arguments import Arguments
from .choice import describe, varlen_refuses

__all__ = ["backward", "forward"]


def forward(qkv: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Returns out (T, H, K) and the log-sum-exp, fp32 (H, T), or an empty tensor from groups, which save none."""
    if not varlen_refuses(describe(qkv, arguments)):
        return _varlen.forward(qkv, arguments)
    return _grouped.forward(qkv, arguments), qkv.new_empty(0, dtype=torch.float32)


def backward(dout: Tensor, qkv: Tensor, out: Tensor, statistics: Tensor, arguments: Arguments) -> Tensor:
    """Returns dqkv (T, 3, H, K)."""
    if not varlen_refuses(describe(qkv, arguments)):
        return _varlen.backward(dout, qkv, out, statistics, arguments)
    return _grouped.backward(dout, qkv, arguments)
