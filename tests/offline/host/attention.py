"""Attention's CUDA kernels on the host machine: the forward by its formulas in PyTorch, the backward by a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offline.host.build import HOST
from offline.host.device import Device, Machine
from unmask_kernels import philox
from unmask_kernels.documents import BOUNDS, Documents

__all__ = ["FILES", "SOURCES", "attention_on", "bitmask_of", "build", "forward"]

SOURCES = HOST.parents[2] / "csrc"
"""The folder of CUDA C++."""

FILES = ("attention/backward_sm80.cu", "attention/tiles.cuh")
"""The files with the kernels of sm_80."""

_DTYPES = {torch.bfloat16: 0, torch.float16: 1}
_WORD = 32
_BY_ROW_UP_TO = 64


def build(folder: Path = SOURCES) -> Machine:
    """Compile the kernels, or a changed copy of them in another folder."""
    files = (folder / "attention" / "backward_sm80.cu", HOST / "kernels" / "attention.cpp")
    changed = folder != SOURCES
    return Machine.build(*files, include=[folder], strict=not changed, to=folder if changed else None)


def attention_on(device: Device) -> Callable[..., Tensor]:
    """Return attention with a backward on the device; for `unmask_kernels.testing.inputs.run`."""

    def attention(qkv: Tensor, documents: Documents, *, p: float, key: Tensor, **unused: Any) -> Tensor:
        result: Tensor = _Attention.apply(qkv, documents, p, key, device)  # type: ignore[no-untyped-call]
        return result

    return attention


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, documents: Documents, p: float, key: Tensor, device: Device) -> Tensor:
        keep = bitmask_of(documents, qkv.shape[2], p, key) if p > 0.0 else None
        out, lse = forward(qkv, documents, p, key)
        ctx.call = (qkv, out, lse, keep, documents, p, device)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None, None, None]:
        qkv, out, lse, keep, documents, p, device = ctx.call
        return _backward(device, dout, qkv, out, lse, keep, documents, p), None, None, None, None


def forward(qkv: Tensor, documents: Documents, p: float, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return out (T, H, K) and the log-sum-exp of scores in base 2, fp32 (H, T)."""
    tokens, _, heads, width = qkv.shape
    out, lse = torch.zeros(tokens, heads, width), torch.zeros(heads, tokens)
    for index, (start, end) in enumerate(pairwise(documents.cu_seqlens.tolist())):
        q, k, v = qkv[start:end].float().permute(1, 2, 0, 3)
        scores = q @ k.mT * width**-0.5
        lse[:, start:end] = scores.logsumexp(-1) / math.log(2)
        weights = scores.softmax(-1)
        if p > 0.0 and end > start:
            weights = weights * _kept(documents, index, heads, end - start, p, key) / (1 - p)
        out[start:end] = (weights @ v).transpose(0, 1)
    return out.to(qkv.dtype), lse


def _kept(documents: Documents, index: int, heads: int, length: int, p: float, key: Tensor) -> Tensor:
    return philox.keep_scores(key, documents.keys[index, None], heads, range(length), length, p)[0]


def bitmask_of(documents: Documents, heads: int, p: float, key: Tensor) -> Tensor:
    """Return which scores dropout keeps, int32 (W, H, T), as csrc/attention/attention.h has it."""
    words = -(-documents.max_seqlen // _WORD)
    result = torch.zeros(words, heads, documents.tokens, dtype=torch.int32)
    for index, (start, end) in enumerate(pairwise(documents.cu_seqlens.tolist())):
        length = end - start
        if length == 0:
            continue
        kept = _kept(documents, index, heads, length, p, key)
        if length > _BY_ROW_UP_TO:
            kept = kept.mT
        bits = torch.nn.functional.pad(kept, (0, words * _WORD - length)).view(heads, length, words, _WORD)
        result[:, :, start:end] = (bits.long() << torch.arange(_WORD)).sum(-1).int().permute(2, 0, 1)
    return result


def _backward(
    device: Device, dout: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, keep: Tensor | None,
    documents: Documents, p: float,
) -> Tensor:  # fmt: skip
    """Return dqkv, with a launch for each range of lengths that has a document; tensors are copied to the device."""
    heads, width = qkv.shape[2:]
    given = [device.tensor(x.contiguous(), read_only=True) for x in (qkv, out, dout, lse)]
    dqkv = device.empty(tuple(qkv.shape), qkv.dtype)
    tiles = device.tensor(documents.tiles, read_only=True)
    kept = 0 if keep is None else device.tensor(keep, read_only=True)
    lengths = documents.cu_seqlens.diff()
    for upper in range(1, 4):
        count = int(((lengths > BOUNDS[upper - 1]) & (lengths <= BOUNDS[upper])).sum())
        # the launch of a range without a document finds no item
        ticket = device.tensor(torch.zeros(1, dtype=torch.int32))
        numbers = (len(qkv), heads, upper - 1, upper, _DTYPES[qkv.dtype], max(1, count * heads), width**-0.5, p)
        assert device.call("attention_backward_sm80", *given, dqkv, tiles, ticket, kept, *numbers) == 0, "no launch"
    return dqkv.clone()
