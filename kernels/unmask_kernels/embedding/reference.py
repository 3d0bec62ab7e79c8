"""The embedding block of BERT (Devlin et al. 2019, arXiv:1810.04805) over packed documents, as one operation.

    h_t = word[ids_t] + position[position of t in its document] + segment[segments_t]
    n_t = (h_t - mean(h_t)) * rstd(h_t) * weight + bias       rstd = (var(h) + eps) ** -1/2, biased variance
    y_t = keep_t * n_t / (1 - p)                              keep = philox.keep_rows(key, row_keys, D, p)

Shapes: ids, segments (T,); word (V, D); position (P, D); segment (N, D); weight, bias (D,); y (T, D). Positions restart
at 0 in every document. Dropout comes after the norm, as in BERT. Everything before y is in fp32, or in fp64 for an fp64
output. Differentiable by autograd; runs anywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import philox
from ..documents import Documents
from ..precision import accumulation_dtype

__all__ = ["embedding"]


def embedding(
    ids: Tensor,
    documents: Documents,
    segments: Tensor | None,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    p: float,
    key: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """The formula above, step by step; arguments as in `unmask_kernels.embedding`."""
    wide = accumulation_dtype(dtype)
    h = word.to(wide)[ids] + position.to(wide)[documents.positions]
    h = h + (segment.to(wide)[0] if segments is None else segment.to(wide)[segments])
    centred = h - h.mean(dim=-1, keepdim=True)
    rstd = (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    y = centred * rstd * weight.to(wide) + bias.to(wide)
    if p > 0.0:
        assert key is not None
        y = y * philox.keep_rows(key, documents.row_keys, y.shape[1], p) / (1.0 - p)
    return y.to(dtype)
