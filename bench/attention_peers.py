"""Attention on packed documents as others have it; each takes the arguments of `attention` and returns its output.

    padded          `scaled_dot_product_attention` on documents padded to the longest, with a boolean mask, or none
                    where all have one length; padding and unpadding are the caller's, and not timed
    varlen_attn     PyTorch's own for packed documents, without dropout; on a GPU
    flex            FlexAttention under torch.compile with a document mask, without dropout; making the mask is timed
                    in a case of its own; on a GPU, since it has no backward on a CPU
    flash-attn 2    when the package flash-attn is installed, on a GPU
    flash-attn 3    when the package flash_attn_3 is installed, on a GPU, without dropout

All as their users call them: backwards may differ in their last bits from run to run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from bench.peers import compiled
from torch import Tensor

from unmask_kernels import Documents
from unmask_kernels.attention import flash_versions

__all__ = ["NAMES", "block_mask", "flex", "padded", "peers", "varlen"]

NAMES = ("padded", "varlen_attn", "flex", "flash-attn 2", "flash-attn 3")
"""All peers, here or not."""


def peers(documents: Documents, p: float) -> dict[str, Callable[..., Tensor]]:
    """Those that run on packed rows of these documents, on their device, with this dropout; `padded` is apart."""
    found: dict[str, Callable[..., Tensor]] = {}
    if documents.cu_seqlens.device.type != "cuda":
        return found
    if p == 0.0:
        found |= {"varlen_attn": varlen, "flex": flex(documents)}
    if 2 in flash_versions.INSTALLED:
        found["flash-attn 2"] = _flash_2
    if 3 in flash_versions.INSTALLED and p == 0.0:
        found["flash-attn 3"] = _flash_3
    return found


def padded(qkv: Tensor, documents: Documents, *, p: float, **rest: Any) -> Tensor:
    """SDPA on rows padded by the caller: qkv (B, N, 3, H, K) in place of packed tokens -> (B, H, N, K)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if documents.tokens == qkv.shape[0] * qkv.shape[1]:  # equal lengths: a mask would only keep the fast kernels away
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p)
    lengths = documents.cu_seqlens.diff()
    mask = torch.arange(qkv.shape[1], device=qkv.device) < lengths[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], dropout_p=p)


def varlen(qkv: Tensor, documents: Documents, **rest: Any) -> Tensor:
    """`varlen_attn`, (T, 3, H, K) -> (T, H, K)."""
    from torch.nn.attention.varlen import varlen_attn

    boundaries, max_seqlen = documents.cu_seqlens, documents.max_seqlen
    out: Tensor = varlen_attn(*qkv.unbind(1), boundaries, boundaries, max_seqlen, max_seqlen)
    return out


def block_mask(documents: Documents) -> Any:
    """FlexAttention's list of blocks in which a token sees another of its document."""
    from torch.nn.attention.flex_attention import create_block_mask

    ids, tokens = documents.document_ids, documents.tokens

    def same_document(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return ids[row] == ids[column]

    return create_block_mask(same_document, None, None, tokens, tokens, device=ids.device)


def flex(documents: Documents, *, compiled: bool = True) -> Callable[..., Tensor]:
    """FlexAttention for these documents, (T, 3, H, K) -> (T, H, K)."""
    from torch.nn.attention.flex_attention import flex_attention

    mask = block_mask(documents)
    attend = _compiled() if compiled else flex_attention

    def call(qkv: Tensor, documents: Documents, **rest: Any) -> Tensor:
        q, k, v = qkv.permute(1, 2, 0, 3).unsqueeze(1)
        out: Tensor = attend(q, k, v, block_mask=mask)  # (1, H, T, K)
        return out[0].transpose(0, 1)

    return call


@lru_cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return compiled(flex_attention)


def _flash_2(qkv: Tensor, documents: Documents, *, p: float, **rest: Any) -> Tensor:
    packed = importlib.import_module("flash_attn").flash_attn_varlen_qkvpacked_func
    out: Tensor = packed(qkv, documents.cu_seqlens, documents.max_seqlen, dropout_p=p)
    return out


def _flash_3(qkv: Tensor, documents: Documents, **rest: Any) -> Tensor:
    attend = importlib.import_module("flash_attn_interface").flash_attn_varlen_func
    boundaries, max_seqlen = documents.cu_seqlens, documents.max_seqlen
    out = attend(*qkv.unbind(1), boundaries, boundaries, max_seqlen, max_seqlen)
    return out[0] if isinstance(out, tuple) else out
