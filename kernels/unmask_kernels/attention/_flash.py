"""flash-attn 2, 3 or 4 on packed documents, where one is installed; `choice` says which version a call gets.

The backward is the one that gives the same bits every time. q, k and v are views of qkv, and versions 2 and 3 write dq,
dk and dv into views of dqkv, so nothing is copied. Grids are sized by `max_seqlen`. Names and arguments are those of
Dao-AILab/flash-attention in August 2026 (2.8.4). The private functions are called, because the public ones tie forward
and backward together in an autograd graph of their own.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from .arguments import Arguments, BackwardArguments, Gradients, Results, sides
from .choice import describe, flash_attn_version

__all__ = ["backward", "forward"]


def forward(arguments: Arguments) -> Results:
    """Returns out, and the log-sum-exp in base e."""
    qkv = arguments.qkv
    tokens, _, heads, width = qkv.shape
    nothing = qkv.new_empty(0, dtype=torch.uint8)
    if tokens == 0:
        return Results(qkv.new_empty(tokens, heads, width), qkv.new_empty(heads, tokens, dtype=torch.float32), nothing)
    q, k, v = qkv.contiguous().unbind(1)
    documents, causal, scale = _documents(arguments), arguments.causal, arguments.scale
    version = flash_attn_version(describe(arguments))
    window = _window(arguments, version)
    if version == 2:
        module = importlib.import_module("flash_attn.flash_attn_interface")
        attend = module._wrapped_flash_attn_varlen_forward
        out, lse, *_ = attend(q, k, v, *documents.values(), 0.0, scale, causal=causal, **window)
    elif version == 3:
        attend = importlib.import_module("flash_attn_interface")._flash_attn_forward
        out, lse, *_ = attend(q, k, v, **documents, softmax_scale=scale, causal=causal, **window)
    else:
        assert version == 4
        attend = importlib.import_module("flash_attn.cute.interface")._flash_attn_fwd
        out, lse, *_ = attend(q, k, v, **documents, softmax_scale=scale, causal=causal, **window, return_lse=True)
    return Results(out, lse, nothing)


def backward(arguments: BackwardArguments) -> Gradients:
    """Returns dqkv."""
    qkv, out, lse = arguments.qkv, arguments.out, arguments.lse
    dqkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    if qkv.shape[0] == 0:
        return Gradients(dqkv)
    dout = arguments.dout.contiguous()
    q, k, v = qkv.contiguous().unbind(1)
    dq, dk, dv = dqkv.unbind(1)
    documents, causal, scale = _documents(arguments), arguments.causal, arguments.scale
    version = flash_attn_version(describe(arguments))
    window = _window(arguments, version)
    if version == 2:
        module = importlib.import_module("flash_attn.flash_attn_interface")
        differentiate = module._wrapped_flash_attn_varlen_backward
        # after the window: softcap, alibi_slopes, deterministic
        rest = (0.0, scale, causal, *window.values(), 0.0, None, True)
        differentiate(dout, q, k, v, out, lse, dq, dk, dv, *documents.values(), *rest)
    elif version == 3:
        differentiate = importlib.import_module("flash_attn_interface")._flash_attn_backward
        named = {"dq": dq, "dk": dk, "dv": dv, "softmax_scale": scale, "is_causal": causal, "deterministic": True}
        differentiate(dout, q, k, v, out, lse, **documents, **named, **window)
    else:
        assert version == 4
        differentiate = importlib.import_module("flash_attn.cute.interface")._flash_attn_bwd
        named = {"softmax_scale": scale, "causal": causal, "deterministic": True}
        gradients = differentiate(q, k, v, out, dout, lse, **documents, **named, **window)
        torch.stack(gradients[:3], dim=1, out=dqkv)
    return Gradients(dqkv)


def _documents(arguments: Arguments | BackwardArguments) -> dict[str, Any]:
    """The boundaries of the documents by name, in the order in which version 2 takes them by position."""
    cu_seqlens, max_seqlen = arguments.cu_seqlens, arguments.max_seqlen
    return {
        "cu_seqlens_q": cu_seqlens,
        "cu_seqlens_k": cu_seqlens,
        "max_seqlen_q": max_seqlen,
        "max_seqlen_k": max_seqlen,
    }


def _window(arguments: Arguments | BackwardArguments, version: int | None) -> dict[str, int | None]:
    """The window by name, left first. A side without a bound is -1, or None for version 4."""
    left, right = (None if side < 0 and version == 4 else side for side in sides(arguments))
    return {"window_size_left": left, "window_size_right": right}
