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
    if tokens == 0:
        return Results(qkv.new_empty(tokens, heads, width), qkv.new_empty(heads, tokens, dtype=torch.float32))
    q, k, v = qkv.contiguous().unbind(1)
    left, right = sides(arguments)
    version = flash_attn_version(describe(arguments))
    if version == 2:
        out, lse, *_ = _module("flash_attn.flash_attn_interface")._wrapped_flash_attn_varlen_forward(
            q,
            k,
            v,
            *_boundaries(arguments).values(),
            0.0,
            arguments.scale,
            causal=arguments.causal,
            window_size_left=left,
            window_size_right=right,
        )
    elif version == 3:
        out, lse, *_ = _module("flash_attn_interface")._flash_attn_forward(
            q,
            k,
            v,
            **_boundaries(arguments),
            softmax_scale=arguments.scale,
            causal=arguments.causal,
            window_size_left=left,
            window_size_right=right,
        )
    else:
        assert version == 4
        out, lse, *_ = _module("flash_attn.cute.interface")._flash_attn_fwd(
            q,
            k,
            v,
            **_boundaries(arguments),
            softmax_scale=arguments.scale,
            causal=arguments.causal,
            window_size_left=_unbounded(left),
            window_size_right=_unbounded(right),
            return_lse=True,
        )
    return Results(out, lse)


def backward(arguments: BackwardArguments) -> Gradients:
    """Returns dqkv."""
    qkv, out, lse = arguments.qkv, arguments.out, arguments.lse
    dqkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    if qkv.shape[0] == 0:
        return Gradients(dqkv)
    dout = arguments.dout.contiguous()
    q, k, v = qkv.contiguous().unbind(1)
    dq, dk, dv = dqkv.unbind(1)
    left, right = sides(arguments)
    version = flash_attn_version(describe(arguments))
    if version == 2:
        _module("flash_attn.flash_attn_interface")._wrapped_flash_attn_varlen_backward(
            dout,
            q,
            k,
            v,
            out,
            lse,
            dq,
            dk,
            dv,
            *_boundaries(arguments).values(),
            0.0,
            arguments.scale,
            arguments.causal,
            left,
            right,
            0.0,
            None,
            True,
        )
    elif version == 3:
        _module("flash_attn_interface")._flash_attn_backward(
            dout,
            q,
            k,
            v,
            out,
            lse,
            **_boundaries(arguments),
            dq=dq,
            dk=dk,
            dv=dv,
            softmax_scale=arguments.scale,
            is_causal=arguments.causal,
            window_size_left=left,
            window_size_right=right,
            deterministic=True,
        )
    else:
        assert version == 4
        gradients = _module("flash_attn.cute.interface")._flash_attn_bwd(
            q,
            k,
            v,
            out,
            dout,
            lse,
            **_boundaries(arguments),
            softmax_scale=arguments.scale,
            causal=arguments.causal,
            window_size_left=_unbounded(left),
            window_size_right=_unbounded(right),
            deterministic=True,
        )
        torch.stack(gradients[:3], dim=1, out=dqkv)
    return Gradients(dqkv)


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _boundaries(arguments: Arguments | BackwardArguments) -> dict[str, Any]:
    """The arguments by name, in the order in which version 2 takes them by position."""
    return {
        "cu_seqlens_q": arguments.cu_seqlens,
        "cu_seqlens_k": arguments.cu_seqlens,
        "max_seqlen_q": arguments.max_seqlen,
        "max_seqlen_k": arguments.max_seqlen,
    }


def _unbounded(side: int) -> int | None:
    return None if side < 0 else side
