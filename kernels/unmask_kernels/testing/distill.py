"""Cases of `distill`: its four losses, each case with the name of its loss among the arguments.

Lengths are those that break kernels (one token, none, primes, a whole tile, a tile and one more); heads of teacher and
student differ in number and width, as those of TinyBERT and its teacher do.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels import attention_relation_loss, attention_score_loss, hidden_state_loss, soft_cross_entropy
from unmask_kernels.distill import DistillCall, reference
from unmask_kernels.distill.choice import describe
from unmask_kernels.documents import Documents

from .inputs import Case, lengths_to_documents

__all__ = [
    "CASES",
    "LOSSES",
    "described",
    "hidden_case",
    "plain_distill",
    "prediction_case",
    "reference_distill",
    "relation_case",
    "run_distill",
    "score_case",
]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "score": attention_score_loss,
    "relation": attention_relation_loss,
    "hidden": hidden_state_loss,
    "prediction": soft_cross_entropy,
}
"""The public functions by the names that cases have for them."""

_PAIRS = ("student_q", "student_k")


def score_case(
    name: str,
    lengths: list[int],
    *,
    heads: int = 2,
    teacher_heads: int | None = None,
    head_dim: int = 32,
    teacher_dim: int = 64,
    weighted: bool = False,
    **settings: Any,
) -> Case:
    """Return a case of `attention_score_loss` on packed documents; scores have a deviation of about 2, as trained."""
    groups = {} if teacher_heads in (None, heads) else {"heads": "mean_of_groups"}
    build = _pairs(lengths, heads, teacher_heads or heads, head_dim, teacher_dim, weighted)
    return Case(
        name=f"score-{name}-k{head_dim}-k{teacher_dim}{_form(settings)}",
        build=lambda generator: {"loss": "score", **build(generator), **groups, **settings},
        parameters=("weights",),
        differentiable=_PAIRS,
    )


def relation_case(
    name: str,
    lengths: list[int],
    *,
    heads: int = 2,
    head_dim: int = 32,
    teacher_dim: int = 64,
    weighted: bool = False,
    **settings: Any,
) -> Case:
    """Return a case of `attention_relation_loss` on packed documents."""
    build = _pairs(lengths, heads, heads, head_dim, teacher_dim, weighted)
    return Case(
        name=f"relation-{name}-k{head_dim}-k{teacher_dim}{_form(settings)}",
        build=lambda generator: {"loss": "relation", **build(generator), **settings},
        parameters=("weights",),
        differentiable=_PAIRS,
    )


def hidden_case(
    rows: int, width: int, teacher_width: int, *, projected: bool = True, bias: bool = True, weighted: bool = False
) -> Case:
    """Return a case of `hidden_state_loss`, (rows, width) beside (rows, teacher_width)."""

    def build(generator: torch.Generator) -> dict[str, Any]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        return {
            "loss": "hidden",
            "student": normal(rows, width),
            "teacher": normal(rows, teacher_width),
            "weight": normal(teacher_width, width) / width**0.5 if projected else None,
            "bias": normal(teacher_width) / 2 if projected and bias else None,
            "weights": _weights(rows, generator) if weighted else None,
        }

    form = "" if projected else "-as-it-is"
    form += ("" if bias or not projected else "-pure") + ("-weighted" if weighted else "")
    return Case(
        name=f"hidden-{rows}x{width}-{teacher_width}{form}",
        build=build,
        parameters=("weight", "bias", "weights"),
        differentiable=("student", "weight", "bias"),
    )


def prediction_case(rows: int, classes: int, *, temperature: float = 1.0, weighted: bool = False) -> Case:
    """Return a case of `soft_cross_entropy`; logits have a deviation of 3."""

    def build(generator: torch.Generator) -> dict[str, Any]:
        return {
            "loss": "prediction",
            "student_logits": torch.randn(rows, classes, generator=generator) * 3,
            "teacher_logits": torch.randn(rows, classes, generator=generator) * 3,
            "temperature": temperature,
            "weights": _weights(rows, generator) if weighted else None,
        }

    form = f"-t{temperature:g}" + ("-weighted" if weighted else "")
    return Case(
        name=f"prediction-{rows}x{classes}{form}",
        build=build,
        parameters=("weights",),
        differentiable=("student_logits",),
    )


def described(
    *, loss: Any, student_q: Tensor, teacher_q: Tensor, documents: Documents, causal: bool = False, **rest: Any
) -> DistillCall:
    """Return the description of a call on documents by which its backend is chosen."""
    widths = (student_q.shape[2], teacher_q.shape[2])
    return describe(loss, student_q, widths, banded=causal, max_seqlen=documents.max_seqlen)


def run_distill(*, loss: str, backend: str | None = None, **arguments: Any) -> Tensor:
    """Call the public function that a case is of."""
    return LOSSES[loss](backend=backend, **arguments)


def reference_distill(*, loss: str, **arguments: Any) -> Tensor:
    """Call its definition."""
    definition: Callable[..., Tensor] = getattr(reference, LOSSES[loss].__name__)
    return definition(**arguments)


def plain_distill(*, loss: str, **arguments: Any) -> Tensor:
    """Compute the loss as PyTorch users write it: products in the tested dtype, what follows in fp32 or wider."""
    plain: Callable[..., Tensor] = globals()[f"_plain_{loss}"]
    return plain(**arguments)


def _pairs(
    lengths: list[int], heads: int, teacher_heads: int, head_dim: int, teacher_dim: int, weighted: bool
) -> Callable[[torch.Generator], dict[str, Any]]:
    def build(generator: torch.Generator) -> dict[str, Any]:
        tokens = sum(lengths)
        shapes = {
            **dict.fromkeys(_PAIRS, (tokens, heads, head_dim)),
            **dict.fromkeys(("teacher_q", "teacher_k"), (tokens, teacher_heads, teacher_dim)),
        }
        return {
            **{name: torch.randn(shape, generator=generator) * 1.5 for name, shape in shapes.items()},
            "documents": lengths_to_documents(lengths),
            "weights": _weights(len(lengths), generator) if weighted else None,
        }

    return build


def _form(settings: dict[str, Any]) -> str:
    """The mask of a case, for its name."""
    causal, window = settings.get("causal", False), settings.get("window")
    return ("-causal" if causal else "") + ("" if window is None else f"-window{window}")


def _weights(count: int, generator: torch.Generator) -> Tensor:
    """Weights of which every third is 0, as that of padding."""
    return torch.rand(count, generator=generator) * (torch.arange(count) % 3 != 1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _plain_scores(q: Tensor, k: Tensor, count: int) -> Tensor:
    scores = q.transpose(0, 1) @ k.permute(1, 2, 0) * q.shape[2] ** -0.5
    return _wide(scores.unflatten(0, (count, -1))).mean(1)


def _plain_unseen(length: int, causal: bool, window: int | None) -> Tensor:
    everything = torch.ones(length, length, dtype=torch.bool)
    unseen = everything.triu(1) if causal else ~everything
    return unseen if window is None else unseen | everything.triu(window + 1) | everything.tril(-window - 1)


def _plain_mean(losses: list[Tensor], documents: Documents, weights: Tensor | None) -> Tensor:
    if weights is None:
        some = documents.cu_seqlens.diff() > 0
        return torch.stack(losses)[some].mean() if some.any() else torch.stack(losses).sum()
    return (torch.stack(losses) * weights.to(losses[0].dtype)).sum()


def _plain_score(
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
    count = min(student_q.shape[1], teacher_q.shape[1])
    losses = []
    for start, end in pairwise(documents.cu_seqlens.tolist()):
        unseen = _plain_unseen(end - start, causal, window).to(student_q.device)
        student = _plain_scores(student_q[start:end], student_k[start:end], count).masked_fill(unseen, 0.0)
        teacher = _plain_scores(teacher_q[start:end], teacher_k[start:end], count).masked_fill(unseen, 0.0)
        seen = int((~unseen).sum()) if normalization == "pairs" else documents.max_seqlen**2
        losses.append(F.mse_loss(student, teacher, reduction="sum") / max(1, count * seen))
    return _plain_mean(losses, documents, weights)


def _plain_relation(
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
    count = student_q.shape[1]
    losses = []
    for start, end in pairwise(documents.cu_seqlens.tolist()):
        unseen = _plain_unseen(end - start, causal, window).to(student_q.device)
        logs = [
            _plain_scores(q[start:end], k[start:end], count).masked_fill(unseen, -1e9).log_softmax(-1)
            for q, k in ((student_q, student_k), (teacher_q, teacher_k))
        ]
        divergence = F.kl_div(logs[0], logs[1], reduction="sum", log_target=True)
        losses.append(divergence / max(1, count * (end - start)))
    return _plain_mean(losses, documents, weights)


def _plain_hidden(
    student: Tensor, teacher: Tensor, weight: Tensor | None, bias: Tensor | None, *, weights: Tensor | None
) -> Tensor:
    if weight is not None:
        student = F.linear(student, weight.to(student.dtype), None if bias is None else bias.to(student.dtype))
    squares = _wide(student - teacher).square().mean(1)
    return squares.sum() / max(1, len(squares)) if weights is None else (squares * weights).sum()


def _plain_prediction(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, weights: Tensor | None
) -> Tensor:
    student, teacher = (_wide(x) / temperature for x in (student_logits, teacher_logits))
    losses = F.cross_entropy(student, teacher.softmax(-1), reduction="none")
    return losses.sum() / max(1, len(losses)) if weights is None else (losses * weights).sum()


_LENGTHS = {
    "one-token": [1],
    "empty-documents": [0, 7, 0, 0, 13, 0],
    "mixed": [33, 5, 64, 1, 40],
    "primes": [101, 67, 31],
    "a-tile-and-one-more": [65, 129],
    "equal-lengths": [24] * 5,
    "skewed": [160, 3, 3, 2, 1],
}
_MASKS: tuple[dict[str, Any], ...] = ({}, {"causal": True}, {"window": 7}, {"causal": True, "window": 16})

CASES = [
    *(score_case(name, lengths, weighted=i % 2 > 0) for i, (name, lengths) in enumerate(_LENGTHS.items())),
    *(
        score_case("mask", [70, 0, 1, 22], head_dim=26, teacher_dim=(64, 26, 32, 48)[i], **mask)
        for i, mask in enumerate(_MASKS)
    ),
    score_case("square", [20, 31], normalization="padded_square"),
    score_case("groups", [40, 90], heads=2, teacher_heads=6, teacher_dim=16),
    score_case("student-groups", [40, 90], heads=4, teacher_heads=2, head_dim=16, causal=True),
    *(relation_case(name, lengths, weighted=i % 2 > 0) for i, (name, lengths) in enumerate(_LENGTHS.items())),
    *(
        relation_case("mask", [70, 0, 1, 22], head_dim=26, teacher_dim=(64, 26, 32, 48)[i], **mask)
        for i, mask in enumerate(_MASKS)
    ),
    hidden_case(37, 26, 64),
    hidden_case(129, 31, 67, bias=False, weighted=True),
    hidden_case(33, 40, 40, projected=False),
    hidden_case(1, 13, 3, weighted=True),
    hidden_case(0, 12, 20),
    prediction_case(37, 3),
    prediction_case(1, 1),
    prediction_case(9, 1000, temperature=2.5, weighted=True),
    prediction_case(131, 2, temperature=0.5),
    prediction_case(0, 5),
]
"""Every loss: documents of every kind that a batch may hold, masks, normalisations, widths that no tile divides."""
