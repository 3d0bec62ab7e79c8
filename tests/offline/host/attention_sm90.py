"""Calls of the attention backward for sm_90 on the host machine or the PTX machine, and what it must compute."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from offline.host.build import HOST
from offline.host.device import Device, Machine
from unmask_kernels.documents import BOUNDS
from unmask_kernels.testing.inputs import lengths_to_documents

__all__ = ["SOURCE", "Problem", "Solved", "build", "gradients", "problem", "solve", "solved"]

_CSRC = HOST.parents[2] / "csrc"
SOURCE = _CSRC / "attention" / "backward_sm90.cu"
_WIDTH, _BY_ROW_UP_TO = 64, 64


class Problem(NamedTuple):
    """Documents with random q, k, v and dout.

    Attributes:
        lengths: of the documents.
        qkv: (T, 3, H, 64).
        dout: (T, H, 64).
        masks: of each document, what dropout keeps, bool (H, s, s); None without dropout.
        p: probability of dropout.
    """

    lengths: tuple[int, ...]
    qkv: Tensor
    dout: Tensor
    masks: tuple[Tensor, ...] | None
    p: float


class Solved(NamedTuple):
    """What the forward gives the backward, and gradients (T, 3, H, 64) of plain PyTorch and in fp64."""

    out: Tensor
    lse: Tensor
    plain: Tensor
    truth: Tensor


def build(folder: Path = _CSRC) -> Machine:
    """Compile the kernel and its launcher, or those of a changed copy of `csrc`, for the host machine."""
    sources = [folder / SOURCE.relative_to(_CSRC), HOST / "kernels" / "attention_sm90.cpp"]
    changed = folder != _CSRC
    return Machine.build(*sources, include=[folder], strict=not changed, to=folder if changed else None)


@lru_cache(maxsize=64)
def problem(lengths: tuple[int, ...], dtype: torch.dtype, heads: int = 2, p: float = 0.0) -> Problem:
    """Draw a problem; the same one for the same arguments."""
    random = torch.Generator().manual_seed(3)
    tokens = sum(lengths)
    qkv = torch.randn(tokens, 3, heads, _WIDTH, generator=random).to(dtype)
    dout = torch.randn(tokens, heads, _WIDTH, generator=random).to(dtype)
    masks = tuple(torch.rand(heads, s, s, generator=random) >= p for s in lengths)
    return Problem(lengths, qkv, dout, masks if p else None, p)


@lru_cache(maxsize=64)
def solved(lengths: tuple[int, ...], dtype: torch.dtype, heads: int = 2, p: float = 0.0) -> Solved:
    """Solve a problem that `problem` draws."""
    return solve(problem(lengths, dtype, heads, p))


def solve(given: Problem) -> Solved:
    """Attend and differentiate, in fp64 and by plain PyTorch."""
    out, lse, plain, truth = [], [], [], []
    for number, rows in enumerate(_rows(given.lengths)):
        mask = None if given.masks is None else given.masks[number]
        qkv, dout = given.qkv[rows], given.dout[rows]
        attended, logarithms, exact = _attend(qkv.double(), dout.double(), mask, given.p)
        out.append(attended.to(qkv.dtype))
        lse.append(logarithms.float())
        plain.append(_attend(qkv, dout, mask, given.p)[2])
        truth.append(exact)
    return Solved(torch.cat(out), torch.cat(lse, 1), torch.cat(plain), torch.cat(truth))


def _rows(lengths: tuple[int, ...]) -> list[slice]:
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _attend(qkv: Tensor, dout: Tensor, mask: Tensor | None, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Attend inside one document by plain PyTorch; return out, log-sum-exp in base 2, and the gradient of qkv."""
    qkv = qkv.detach().requires_grad_()
    q, k, v = (each.transpose(0, 1) for each in qkv.unbind(1))
    scores = q @ k.mT / math.sqrt(_WIDTH)
    weights = scores.softmax(-1)
    kept = weights if mask is None else weights * mask / (1.0 - p)
    out = (kept @ v).transpose(0, 1)
    out.backward(dout)
    assert qkv.grad is not None
    return out.detach(), scores.detach().logsumexp(-1) / math.log(2.0), qkv.grad


def _words(given: Problem) -> Tensor:
    """Pack masks into words, int32 (W, H, T), as csrc/attention/attention.h lays them out."""
    assert given.masks is not None
    heads, tokens = given.qkv.shape[2], len(given.qkv)
    words = torch.zeros(-(-max(given.lengths) // 32), heads, tokens, dtype=torch.int64)
    for mask, rows in zip(given.masks, _rows(given.lengths), strict=True):
        # others along the words, members along the tokens
        others = mask if len(mask[0]) <= _BY_ROW_UP_TO else mask.mT
        for other in range(mask.shape[-1]):
            words[other // 32, :, rows] |= others[:, :, other].long() << other % 32
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def gradients(device: Device, given: Problem, result: Solved) -> Tensor:
    """Launch the kernel for each range of lengths; return dqkv (T, 3, H, 64)."""
    documents = lengths_to_documents([*given.lengths])
    tokens, _, heads, _ = given.qkv.shape
    dqkv = device.empty(tuple(given.qkv.shape), given.qkv.dtype)
    keep = None if given.masks is None else device.tensor(_words(given), read_only=True)
    tensors = [device.tensor(each, read_only=True) for each in (given.qkv, result.out, given.dout, result.lse)]
    tiles = device.tensor(documents.tiles, read_only=True)
    for lower in range(4):
        if max(given.lengths) > BOUNDS[lower]:
            ticket = device.tensor(torch.zeros(1, dtype=torch.int32))
            scale = 1.0 / math.sqrt(_WIDTH)
            status = device.call(
                "run_backward_sm90", *tensors, dqkv, tiles, ticket, 0 if keep is None else keep, tokens, heads, lower,
                int(given.qkv.dtype == torch.float16), len(given.lengths) * heads, scale / math.log(2.0),
                scale / (1.0 - given.p), 1.0 - given.p,
            )  # fmt: skip
            assert status == 0, "the launch reports an error"
    return dqkv
