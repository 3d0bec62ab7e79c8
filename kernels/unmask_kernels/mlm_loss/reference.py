"""The masked-language-model loss, the definition: output projection and cross-entropy at the masked positions only.

    logits = hidden[positions] @ weight.T + bias              (M, V)
    lse    = logsumexp(logits)                                (M,)
    loss   = sum over slots with label >= 0 of  lse - (1 - e) logits[label] - e mean(logits) + z lse**2      in nats
    count, correct: those slots, and how many of them have their largest logit (the first one of equals) at the label

e is the label smoothing (Szegedy et al. 2016, arXiv:1512.00567: the target is (1 - e) onehot + e / V, as in
F.cross_entropy); z the coefficient of the z-loss, which keeps the log of the softmax's normaliser near 0 (PaLM,
Chowdhery et al. 2022, arXiv:2204.02311, section 5, z = 1e-4; ST-MoE, Zoph et al. 2022, arXiv:2202.08906, for routers).

Shapes: hidden (T, D); positions, labels (M,); weight (V, D); bias (V,). Computed in fp32, or fp64 for fp64 hidden.
Differentiable by autograd; holds all M x V logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import accumulation_dtype

__all__ = ["mlm_loss"]


def mlm_loss(
    hidden: Tensor,
    positions: Tensor | None,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """See the head of this file; without positions, hidden is (M, D) already."""
    wide = accumulation_dtype(hidden.dtype)
    rows = hidden if positions is None else hidden[positions]
    logits = F.linear(rows.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    valid = labels >= 0
    targets = labels.where(valid, -100)
    loss = F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100, label_smoothing=label_smoothing)
    if z_loss:
        loss = loss + z_loss * torch.logsumexp(logits, -1).square().where(valid, 0).sum()
    correct = ((logits.argmax(-1) == labels) & valid).sum()
    return loss, valid.sum(), correct
