"""Attention of other libraries on packed documents; each function takes the arguments of `attention`.

    padded          `scaled_dot_product_attention` on documents padded to the longest, with a boolean mask unless all
                    lengths are equal; the caller pads and unpads, which is not timed
    varlen_attn     PyTorch's function for packed documents; on a GPU, without dropout
    flex            FlexAttention under torch.compile with a document mask; on a GPU, since it has no backward on a CPU,
                    without dropout; a case of its own times the making of the mask
    flash-attn 2    on a GPU with the package flash-attn
    flash-attn 3    on a GPU with the package flash_attn_3, without dropout

They run as their users call them: the last bits of a backward may differ from run to run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from bench.variants import compiled
from torch import Tensor

from unmask_kernels import Documents
from unmask_kernels.attention.choice import FLASH_ATTN_INSTALLED

__all__ = ["NAMES", "block_mask", "flex", "padded", "peers", "varlen"]

NAMES = ("padded", "varlen_attn", "flex", "flash-attn 2", "flash-attn 3")
"""All peers, whether they can run here or not."""


def peers(documents: Documents, p: float) -> dict[str, Callable[..., Tensor]]:
    """Return the peers that can run on these packed documents with this dropout; `padded` takes other inputs."""
    found: dict[str, Callable[..., Tensor]] = {}
    if documents.cu_seqlens.device.type != "cuda":
        return found
    if p == 0.0:
        found |= {"varlen_attn": varlen, "flex": flex(documents)}
    if 2 in FLASH_ATTN_INSTALLED:
        found["flash-attn 2"] = _flash_2
    if 3 in FLASH_ATTN_INSTALLED and p == 0.0:
        found["flash-attn 3"] = _flash_3
    return found


def padded(qkv: Tensor, documents: Documents, *, p: float, **rest: Any) -> Tensor:
    """Run SDPA on rows that the caller has padded: qkv (B, N, 3, H, K) -> (B, H, N, K)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if documents.tokens == qkv.shape[0] * qkv.shape[1]:  # equal lengths: with a mask the fast kernels would not run
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p)
    lengths = documents.cu_seqlens.diff()
    mask = torch.arange(qkv.shape[1], device=qkv.device) < lengths[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], dropout_p=p)


def varlen(qkv: Tensor, documents: Documents, **rest: Any) -> Tensor:
    """Run `varlen_attn`: qkv (T, 3, H, K) -> (T, H, K)."""
    from torch.nn.attention.varlen import varlen_attn

    boundaries, max_seqlen = documents.cu_seqlens, documents.max_seqlen
    out: Tensor = varlen_attn(*qkv.unbind(1), boundaries, boundaries, max_seqlen, max_seqlen)
    return out


def block_mask(documents: Documents) -> Any:
    """Make FlexAttention's mask: a token attends to the tokens of its document."""
    from torch.nn.attention.flex_attention import create_block_mask

    ids, tokens = documents.document_ids, documents.tokens

    def same_document(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return ids[row] == ids[column]

    return create_block_mask(same_document, None, None, tokens, tokens, device=ids.device)


def flex(documents: Documents, *, compiled: bool = True) -> Callable[..., Tensor]:
    """Return FlexAttention for these documents: qkv (T, 3, H, K) -> (T, H, K)."""
    from torch.nn.attention.flex_attention import flex_attention

    # made by the first call, which is not timed: whoever leaves the peer out does not compile it
    mask = cache(lambda: block_mask(documents))
    attend = _compiled_flex_attention() if compiled else flex_attention

    def call(qkv: Tensor, documents: Documents, **rest: Any) -> Tensor:
        q, k, v = qkv.permute(1, 2, 0, 3).unsqueeze(1)
        out: Tensor = attend(q, k, v, block_mask=mask())  # (1, H, T, K)
        return out[0].transpose(0, 1)

    return call


@lru_cache
def _compiled_flex_attention() -> Any:
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
