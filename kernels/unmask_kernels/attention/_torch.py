"""Attention by PyTorch: `varlen_attn` where that runs the call, else batched products of documents in groups.

`torch.nn.attention.varlen.varlen_attn` is PyTorch's own attention on packed documents. It needs a GPU from sm_80 on and
16 bits, has no dropout, and waits for nothing. It ties its forward and its backward together in an autograd graph, so
the two operations of ATen beneath it are called here. They are flash-attn 2, unless
`torch.nn.attention.activate_flash_attention_impl` puts another one there, and their grids are sized by `max_seqlen`. q,
k and v are views of qkv; dq, dk and dv come back as three tensors and are copied into one.

`_torch_grouped` runs every other call, with next to no padding. It reads the lengths on the host: free on a CPU, and on
a GPU several waits for the device in each group.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import _torch_grouped
from .arguments import Arguments, BackwardArguments, Gradients, Results, keep_bytes, sides
from .choice import describe, saves_keep, varlen_refuses

__all__ = ["backward", "forward"]


def forward(arguments: Arguments) -> Results:
    """Returns out, and the log-sum-exp in base e, or from groups what dropout keeps."""
    qkv = arguments.qkv
    tokens, _, heads, width = qkv.shape
    nothing = qkv.new_empty(0, dtype=torch.uint8)
    if varlen_refuses(describe(arguments)):
        saved = saves_keep("torch", describe(arguments))
        keep = nothing.new_zeros(heads, tokens, keep_bytes(arguments)) if saved else nothing
        return Results(_torch_grouped.forward(arguments, keep), qkv.new_empty(0, dtype=torch.float32), keep)
    if tokens == 0:
        return Results(qkv.new_empty(tokens, heads, width), qkv.new_empty(heads, tokens, dtype=torch.float32), nothing)
    q, k, v = qkv.contiguous().unbind(1)
    positional, named = _of_varlen(arguments)
    out, lse, *_ = torch.ops.aten._flash_attention_forward(q, k, v, *positional, False, **named)
    return Results(out, lse, nothing)


def backward(arguments: BackwardArguments) -> Gradients:
    """Returns dqkv."""
    qkv = arguments.qkv
    if varlen_refuses(describe(arguments)):
        return Gradients(_torch_grouped.backward(arguments))
    if qkv.shape[0] == 0:
        return Gradients(torch.empty_like(qkv, memory_format=torch.contiguous_format))
    q, k, v = qkv.contiguous().unbind(1)
    tensors = (arguments.dout.contiguous(), q, k, v, arguments.out, arguments.lse)
    # the states of dropout's random numbers, which are not used
    unused = torch.zeros(2, dtype=torch.uint64, device=qkv.device)
    positional, named = _of_varlen(arguments)
    with _deterministic():
        gradients = torch.ops.aten._flash_attention_backward(*tensors, *positional, unused, unused, **named)
    return Gradients(torch.stack(gradients, dim=1))


def _of_varlen(arguments: Arguments | BackwardArguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What both operations are given, without dropout: by position after the tensors, and by name."""
    cu_seqlens, max_seqlen = arguments.cu_seqlens, arguments.max_seqlen
    left, right = sides(arguments)
    named = {"scale": arguments.scale, "window_size_left": left, "window_size_right": right}
    return (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, arguments.causal), named


@contextmanager
def _deterministic() -> Iterator[None]:
    """PyTorch's deterministic algorithms: without them the backward of flash-attn 2 adds to dq in any order."""
    if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
        yield
        return
    enabled = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # filling fresh memory with NaN is for tests
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warned_only)
        memory.fill_uninitialized_memory = filled
