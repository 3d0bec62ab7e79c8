"""The records of distill: what its operations take and return.

T tokens, S documents, R rows, C classes. A student has H heads of K elements, a teacher H heads of G; their hidden
states have D and E columns. *Wide* is the accumulation dtype: fp32, or fp64 for fp64 activations.

Each loss is a scalar, so the forward computes its gradients while it has what they need, and the backward scales them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

__all__ = [
    "NORMALIZATIONS",
    "HiddenArguments",
    "HiddenResults",
    "Normalization",
    "PairArguments",
    "PairResults",
    "PredictionArguments",
    "PredictionResults",
]

Normalization = Literal["pairs", "padded_square"]
NORMALIZATIONS: tuple[Normalization, ...] = ("pairs", "padded_square")
"""What the sum over pairs of tokens is divided by: see `op.attention_score_loss`."""


class PairArguments(NamedTuple):
    """What the losses of attention take, which compare pairs of tokens.

    Attributes:
        student_q, student_k: (T, H, K), contiguous in the last dimension.
        teacher_q, teacher_k: (T, H, G), in the same dtype.
        factors: what the sum over heads and pairs of a document is multiplied by, wide (S,); 0 skips the document.
        cu_seqlens, order, tiles: lists of `Documents`.
        student_scale, teacher_scale: factors of the scores.
        causal: whether a row sees only columns up to its own.
        window: columns seen on either side of a row's own, -1 for all.
        max_seqlen: static bound on the length of a document.
        with_gradients: whether gradients are wanted.
    """

    student_q: Tensor
    student_k: Tensor
    teacher_q: Tensor
    teacher_k: Tensor
    factors: Tensor
    cu_seqlens: Tensor
    order: Tensor
    tiles: Tensor
    student_scale: float
    teacher_scale: float
    causal: bool
    window: int
    max_seqlen: int
    with_gradients: bool


class PairResults(NamedTuple):
    """What they return. Gradients are empty, (0,), if none are wanted.

    Attributes:
        loss: scalar, wide.
        dq, dk: gradients of student_q and student_k, (T, H, K), in their dtype, or fp32 where that is fp16: a gradient
            of a mean is below its range.
    """

    loss: Tensor
    dq: Tensor
    dk: Tensor


class HiddenArguments(NamedTuple):
    """What `hidden_state_loss` takes.

    Attributes:
        student: (R, D).
        teacher: (R, E), in the same dtype.
        weight: projection of the student, (E, D), in the dtype of student, or None; D is E then.
        bias: (E,), wide, or None.
        factors: what the sum over the columns of a row is multiplied by, wide (R,).
        with_gradients: whether gradients are wanted.
    """

    student: Tensor
    teacher: Tensor
    weight: Tensor | None
    bias: Tensor | None
    factors: Tensor
    with_gradients: bool


class HiddenResults(NamedTuple):
    """What it returns. Gradients are empty, (0,), if none are wanted, or if there is no such argument.

    Attributes:
        loss: scalar, wide.
        dstudent: (R, D), in the dtype of student, or fp32 where that is fp16.
        dweight: (E, D), wide.
        dbias: (E,), wide.
    """

    loss: Tensor
    dstudent: Tensor
    dweight: Tensor
    dbias: Tensor


class PredictionArguments(NamedTuple):
    """What `soft_cross_entropy` takes: logits (R, C) of both, wide factors of the rows (R,), and the temperature."""

    student: Tensor
    teacher: Tensor
    factors: Tensor
    temperature: float
    with_gradients: bool


class PredictionResults(NamedTuple):
    """What it returns: loss, scalar, wide; dstudent (R, C), as of `HiddenResults`, or (0,)."""

    loss: Tensor
    dstudent: Tensor
