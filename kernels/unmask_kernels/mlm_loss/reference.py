"""The masked-language-model loss, the definition: output projection and cross-entropy at the masked positions only.

    logits  = hidden[positions] @ weight.T + bias                            (M, V)
    lse     = logsumexp(logits)                                              (M,)
    loss    = sum over slots with label >= 0 of  lse - logits[label]         in nats
    count   = number of these slots
    correct = number of these slots whose largest logit (the first of equals) is at the label

Shapes: hidden (T, D); positions, labels (M,); weight (V, D); bias (V,). Computed in fp32, or fp64 for fp64 hidden.
Differentiable by autograd; holds all M x V logits.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..precision import accumulation_dtype

__all__ = ["mlm_loss"]


def mlm_loss(
    hidden: Tensor, positions: Tensor | None, labels: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula above: loss, count, correct. Without positions, hidden is (M, D) already."""
    wide = accumulation_dtype(hidden.dtype)
    rows = hidden if positions is None else hidden[positions]
    logits = F.linear(rows.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    valid = labels >= 0
    loss = F.cross_entropy(logits, labels.where(valid, -100), reduction="sum", ignore_index=-100)
    correct = ((logits.argmax(-1) == labels) & valid).sum()
    return loss, valid.sum(), correct
