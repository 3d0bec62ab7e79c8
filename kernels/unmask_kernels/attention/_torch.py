"""Attention by PyTorch's batched products, without padding: documents of equal length share one call.

Work is the sum of s_i^2 exactly: a group holds documents of one length, so there is neither padding nor a mask.
A group is cut so that a block of scores has at most `_SCORES` elements and stays near the cache; a long document
is cut by rows. Memory is O(T): the backward forms the probabilities again from q and k, one block at a time.

Explicit products, not `scaled_dot_product_attention`: on a CPU with AVX-512 BF16 and 2 threads its bf16 kernel
reached 29 GFLOP/s backward at 4 heads x 512 tokens, these products 222.

It reads the lengths on the host; on a GPU that waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from .. import philox

__all__ = ["backward", "forward"]

_SCORES = 1 << 21


def forward(
    qkv: Tensor,
    cu_seqlens: Tensor,
    keys: Tensor,
    order: Tensor,
    key: Tensor | None,
    p: float,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """out (T, H, K) and an empty tensor: this backend saves no statistics."""
    heads = qkv.shape[2]
    out = torch.empty_like(qkv[:, 0])
    for rows, length, documents in _groups(cu_seqlens, order, heads):
        q, k, v = _by_head(qkv[rows], length)  # (n * H, s, K)
        blocks = []
        for block in _row_blocks(length, len(q)):
            probabilities = _probabilities(q, k, block, causal, scale)
            keep = _keep(key, keys[documents], heads, length, block, p)
            if keep is not None:
                probabilities = probabilities * keep
            blocks.append(probabilities @ v)
        values = torch.cat(blocks, dim=1) if len(blocks) > 1 else blocks[0]
        out[rows] = _by_token(values if p == 0.0 else values / (1.0 - p), heads)
    return out, qkv.new_empty(0, dtype=torch.float32)


def backward(
    dout: Tensor,
    qkv: Tensor,
    out: Tensor,
    statistics: Tensor,
    cu_seqlens: Tensor,
    keys: Tensor,
    order: Tensor,
    key: Tensor | None,
    p: float,
    causal: bool,
    scale: float,
) -> Tensor:
    """dqkv (T, 3, H, K)."""
    heads = qkv.shape[2]
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    for rows, length, documents in _groups(cu_seqlens, order, heads):
        q, k, v = _by_head(qkv[rows], length)
        (do,) = _by_head(dout[rows].unsqueeze(1), length)
        dq = torch.empty_like(q)
        wide = torch.promote_types(q.dtype, torch.float32)
        blocks = list(_row_blocks(length, len(q)))
        # with several blocks dk and dv are sums of products, added in fp32
        dk, dv = (torch.zeros_like(k, dtype=wide if len(blocks) > 1 else k.dtype) for _ in range(2))
        for block in blocks:
            probabilities = _probabilities(q, k, block, causal, scale)
            dprobabilities = do[:, block] @ v.transpose(-1, -2)
            keep = _keep(key, keys[documents], heads, length, block, p)
            dropped = probabilities
            if keep is not None:
                dropped, dprobabilities = probabilities * keep, dprobabilities * keep
            dv += dropped.transpose(-1, -2) @ do[:, block]
            dscores = torch.ops.aten._softmax_backward_data(dprobabilities, probabilities, -1, q.dtype)
            dq[:, block] = (dscores @ k) * (scale / (1.0 - p))
            dk += dscores.transpose(-1, -2) @ q[:, block]
        # the factor 1 / (1 - p) of dropout is linear all the way, so it is applied to the results, rounded once
        dk *= scale / (1.0 - p)
        dv /= 1.0 - p
        for part, gradient in enumerate((dq, dk, dv)):
            dqkv[rows, part] = _by_token(gradient.to(qkv.dtype), heads)
    return dqkv


def _groups(cu_seqlens: Tensor, order: Tensor, heads: int) -> Iterator[tuple[Tensor | slice, int, Tensor]]:
    """Rows (n * s), length s and document indices (n,) of each group of documents of one length."""
    offsets = cu_seqlens.tolist()
    lengths = [offsets[index + 1] - offsets[index] for index in range(len(offsets) - 1)]
    for length, members in groupby(order.tolist(), key=lengths.__getitem__):
        if length == 0:
            continue
        same = list(members)
        at_a_time = max(1, _SCORES // (heads * length * length))
        for first in range(0, len(same), at_a_time):
            some = same[first : first + at_a_time]
            documents = torch.tensor(some, device=order.device)
            if len(some) == 1:
                yield slice(offsets[some[0]], offsets[some[0]] + length), length, documents
            else:
                starts = cu_seqlens[documents].long()
                rows = starts[:, None] + torch.arange(length, device=order.device)
                yield rows.flatten(), length, documents


def _row_blocks(length: int, batch: int) -> Iterator[slice]:
    rows = max(1, 2 * _SCORES // (batch * length))
    for start in range(0, length, rows):
        yield slice(start, min(start + rows, length))


def _by_head(x: Tensor, length: int) -> Tensor:
    """(n * s, parts, H, K) -> (parts, n * H, s, K)."""
    parts, heads, width = x.shape[1:]
    return x.view(-1, length, parts, heads, width).permute(2, 0, 3, 1, 4).reshape(parts, -1, length, width)


def _by_token(x: Tensor, heads: int) -> Tensor:
    """(n * H, s, K) -> (n * s, H, K)."""
    length, width = x.shape[1:]
    return x.view(-1, heads, length, width).transpose(1, 2).reshape(-1, heads, width)


def _probabilities(q: Tensor, k: Tensor, block: slice, causal: bool, scale: float) -> Tensor:
    """softmax(scale * q k^T) for a block of rows, (n * H, rows, s)."""
    rows, length = block.stop - block.start, k.shape[1]
    nothing = q.new_empty(1, 1, 1).expand(len(q), rows, length)
    scores = torch.baddbmm(nothing, q[:, block], k.transpose(-1, -2), beta=0.0, alpha=scale)
    if causal:
        hidden = torch.ones(rows, length, dtype=torch.bool, device=q.device).triu(block.start + 1)
        scores = scores.masked_fill_(hidden, float("-inf"))
    return scores.softmax(-1)


def _keep(key: Tensor | None, keys: Tensor, heads: int, length: int, block: slice, p: float) -> Tensor | None:
    """Which probabilities survive, bool (n * H, rows, s), or None without dropout."""
    if key is None or p == 0.0:
        return None
    keep = philox.keep_scores(key, keys, heads, range(block.start, block.stop), length, p)
    return keep.flatten(0, 1)
