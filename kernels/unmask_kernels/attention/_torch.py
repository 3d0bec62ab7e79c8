"""Attention by PyTorch: its kernel for packed documents where that runs the call, else products of documents in groups.

`_varlen` needs a GPU from sm_80 on, 16 bits and no dropout, and waits for nothing. `_grouped` runs everything, with
next to no padding, but reads the lengths on the host: free on a CPU, on a GPU a wait for the device, several a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _grouped, _varlen
from .choice import describe, varlen_refuses

__all__ = ["backward", "forward"]


def forward(
    qkv: Tensor,
    cu_seqlens: Tensor,
    keys: Tensor,
    order: Tensor,
    tiles: Tensor,
    key: Tensor | None,
    p: float,
    causal: bool,
    window: int,
    scale: float,
    longest: int,
) -> tuple[Tensor, Tensor]:
    """Returns out (T, H, K) and the log-sum-exp, fp32 (H, T), or an empty tensor from groups, which save none."""
    if not varlen_refuses(describe(qkv, p, causal, window, longest)):
        return _varlen.forward(qkv, cu_seqlens, causal, window, scale, longest)
    out = _grouped.forward(qkv, cu_seqlens, keys, order, key, p, causal, window, scale)
    return out, qkv.new_empty(0, dtype=torch.float32)


def backward(
    dout: Tensor,
    qkv: Tensor,
    out: Tensor,
    statistics: Tensor,
    cu_seqlens: Tensor,
    keys: Tensor,
    order: Tensor,
    tiles: Tensor,
    key: Tensor | None,
    p: float,
    causal: bool,
    window: int,
    scale: float,
    longest: int,
) -> Tensor:
    """Returns dqkv (T, 3, H, K)."""
    if not varlen_refuses(describe(qkv, p, causal, window, longest)):
        return _varlen.backward(dout, qkv, out, statistics, cu_seqlens, causal, window, scale, longest)
    return _grouped.backward(dout, qkv, cu_seqlens, keys, order, key, p, causal, window, scale)
