"""Attention bounded by documents, the definition (Vaswani et al. 2017; intra-document mask, Zhao et al. 2024).

For every document of s tokens and every head

    P = softmax(scale * q k^T)            (s, s), over the columns j that row i sees: |i - j| <= window; causal: j <= i
    out = (P * keep / (1 - p)) v          keep_ij = lane of philox(key, address of row i, column j, head) >= p

Shapes: qkv (T, 3, H, K), out (T, H, K). Products and statistics in fp32, or fp64 for fp64 input.
Differentiable by autograd, runs on any device and in fp64, and drops the same elements as every other backend.
It reads the boundaries on the host and holds one document's score matrix at a time.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .. import philox
from ..documents import Documents

__all__ = ["attention"]


def attention(
    qkv: Tensor,
    documents: Documents,
    *,
    causal: bool,
    window: int | None,
    scale: float,
    p: float,
    key: Tensor | None,
) -> Tensor:
    """See the head of this file."""
    wide = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    heads = qkv.shape[2]
    outputs = []
    for index, (start, end) in enumerate(pairwise(documents.cu_seqlens.tolist())):
        q, k, v = qkv[start:end].to(wide).permute(1, 2, 0, 3)  # (H, s, K) each
        scores = scale * q @ k.transpose(-1, -2)  # (H, s, s)
        place = torch.arange(end - start, device=qkv.device)
        ahead = place - place[:, None]  # j - i
        if causal:
            scores = scores.masked_fill(ahead > 0, float("-inf"))
        if window is not None:
            scores = scores.masked_fill(ahead.abs() > window, float("-inf"))
        probabilities = scores.softmax(-1)
        if key is not None and p > 0.0 and end > start:
            keep = philox.keep_scores(key, documents.keys[index, None], heads, range(end - start), end - start, p)[0]
            probabilities = probabilities * keep / (1.0 - p)
        outputs.append((probabilities @ v).transpose(0, 1))  # (s, H, K)
    return torch.cat(outputs).to(qkv.dtype)
