"""Losses by which a student learns from a teacher, the definitions.

    score         S = q k^T / sqrt(K) of a document and head
                  mean over heads and pairs (i, j) of (S_student - S_teacher)^2, for each document
    relation      P = softmax(S)
                  mean over heads and rows of KL(P_teacher || P_student), for each document
    hidden        mean over columns of (student W^T + b - teacher)^2, for each row
    prediction    - sum over classes of softmax(teacher / t) log softmax(student / t), for each row

Sources: Jiao et al. 2020, arXiv:1909.10351; relation: Wang et al. 2020, arXiv:2002.10957.

A loss is the weighted sum of these, over documents or rows, by default with equal weights that sum to 1: their mean.
Pairs are those of a row and a column that it sees: |i - j| <= window; causal: j <= i. Everything is in fp32, or fp64
for fp64 activations. This file is the definition: it is differentiable by autograd, with respect to the student alone,
and runs on any device and in fp64. It reads the boundaries on the host and holds one document's scores at a time.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..documents import Documents
from ..precision import accumulation_dtype

__all__ = ["attention_relation_loss", "attention_score_loss", "hidden_state_loss", "soft_cross_entropy"]


def attention_score_loss(
    student_q: Tensor,
    student_k: Tensor,
    teacher_q: Tensor,
    teacher_k: Tensor,
    documents: Documents,
    *,
    causal: bool = False,
    window: int | None = None,
    normalization: str = "pairs",
    heads: str = "equal",
    weights: Tensor | None = None,
) -> Tensor:
    """The first formula; arguments as in `unmask_kernels.attention_score_loss`."""
    count = min(student_q.shape[1], teacher_q.shape[1])
    losses = []
    for tokens in _spans(documents, weights):
        student = _mean_of_groups(_scores(student_q[tokens], student_k[tokens]), count)
        teacher = _mean_of_groups(_scores(teacher_q[tokens], teacher_k[tokens]).detach(), count)
        seen = _seen(tokens, causal, window, student.device)
        number = seen.sum().clamp(min=1) if normalization == "pairs" else documents.max_seqlen**2
        losses.append((student - teacher).square().masked_fill(~seen, 0.0).sum() / (count * number))
    return _weighted(losses, documents, weights)


def attention_relation_loss(
    student_q: Tensor,
    student_k: Tensor,
    teacher_q: Tensor,
    teacher_k: Tensor,
    documents: Documents,
    *,
    causal: bool = False,
    window: int | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """The second formula; arguments as in `unmask_kernels.attention_relation_loss`."""
    losses = []
    for tokens in _spans(documents, weights):
        unseen = ~_seen(tokens, causal, window, student_q.device)
        student = _scores(student_q[tokens], student_k[tokens]).masked_fill(unseen, float("-inf")).log_softmax(-1)
        teacher = _scores(teacher_q[tokens], teacher_k[tokens]).detach()
        teacher = teacher.masked_fill(unseen, float("-inf")).log_softmax(-1)
        divergence = teacher.exp() * (teacher - student).masked_fill(unseen, 0.0)
        losses.append(divergence.sum() / max(1, student.shape[0] * student.shape[1]))
    return _weighted(losses, documents, weights)


def hidden_state_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """The third formula; arguments as in `unmask_kernels.hidden_state_loss`."""
    wide = accumulation_dtype(student.dtype)
    student, teacher = student.to(wide), teacher.detach().to(wide)
    if weight is not None:
        student = F.linear(student, weight.to(wide), None if bias is None else bias.to(wide))
    return _sum_of_rows((student - teacher).square().mean(1), weights)


def soft_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """The fourth formula; arguments as in `unmask_kernels.soft_cross_entropy`."""
    wide = accumulation_dtype(student_logits.dtype)
    target = (teacher_logits.detach().to(wide) / temperature).softmax(-1)
    return _sum_of_rows(-(target * (student_logits.to(wide) / temperature).log_softmax(-1)).sum(1), weights)


def _spans(documents: Documents, weights: Tensor | None) -> list[slice]:
    """The tokens of each document, none for a document of weight 0: what is not finite there must not reach the sum."""
    spans = pairwise(documents.cu_seqlens.tolist())
    counts = [True] * len(documents.keys) if weights is None else (weights != 0).tolist()
    return [slice(start, end if count else start) for (start, end), count in zip(spans, counts, strict=True)]


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Scores of one document, (H, s, s)."""
    wide = accumulation_dtype(q.dtype)
    return float(q.shape[2]) ** -0.5 * q.to(wide).transpose(0, 1) @ k.to(wide).permute(1, 2, 0)


def _mean_of_groups(scores: Tensor, count: int) -> Tensor:
    """The scores of `count` heads: each is the mean of heads that follow each other."""
    return scores.unflatten(0, (count, -1)).mean(1)


def _seen(tokens: slice, causal: bool, window: int | None, device: torch.device) -> Tensor:
    place = torch.arange(tokens.stop - tokens.start, device=device)
    ahead = place - place[:, None]  # j - i
    seen = torch.ones_like(ahead, dtype=torch.bool)
    if causal:
        seen &= ahead <= 0
    if window is not None:
        seen &= ahead.abs() <= window
    return seen


def _weighted(losses: list[Tensor], documents: Documents, weights: Tensor | None) -> Tensor:
    if weights is None:
        # the mean over documents that have a token
        some = (documents.cu_seqlens.diff() > 0).to(losses[0].dtype)
        weights = some / some.sum().clamp(min=1)
    return (torch.stack(losses) * weights.detach().to(losses[0].dtype)).sum()


def _sum_of_rows(losses: Tensor, weights: Tensor | None) -> Tensor:
    return losses.sum() / max(1, len(losses)) if weights is None else (losses * weights.detach().to(losses.dtype)).sum()
