"""distill: the public losses, their checks and their registration.

Each loss compares a student with a teacher that is not differentiated: only the student, and its projection, get
gradients. The loss is a weighted sum over documents or rows. A step of several micro-batches or ranks passes `weights`:
1 / count of the whole step for what counts, 0 for what does not, such as documents of padding. The losses of the
micro-batches then add up to the mean of the step.

Shapes: T tokens, S documents, R rows, C classes; see `arguments`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from .. import checks
from ..documents import Documents
from ..precision import accumulation_dtype, autocast_dtype, without_autocast
from ..registration import operation
from . import reference
from .arguments import (
    NORMALIZATIONS,
    HiddenArguments,
    HiddenResults,
    Normalization,
    PairArguments,
    PairResults,
    PredictionArguments,
    PredictionResults,
)
from .choice import FAMILY, DistillCall, describe

__all__ = ["attention_relation_loss", "attention_score_loss", "hidden_state_loss", "soft_cross_entropy"]

_WEIGHTS = (torch.float32, torch.float64)
_HEADS = ("equal", "mean_of_groups")


def attention_score_loss(
    student_q: Tensor,
    student_k: Tensor,
    teacher_q: Tensor,
    teacher_k: Tensor,
    documents: Documents,
    *,
    causal: bool = False,
    window: int | None = None,
    normalization: Normalization = "pairs",
    heads: Literal["equal", "mean_of_groups"] = "equal",
    weights: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compare attention scores before the softmax, without a matrix of scores in memory.

    Equivalent to  F.mse_loss(student_q @ student_k.mT * K**-0.5, teacher_q @ teacher_k.mT * G**-0.5)  over the heads
    and the pairs of tokens of each document, and the mean of that over documents: the attention loss of TinyBERT.
    Jiao et al. 2020, arXiv:1909.10351.

    Args:
        student_q, student_k: queries and keys of the student, (T, H, K), fp16, bf16, fp32 or fp64; contiguous in the
            last dimension, such as `qkv[:, 0]` and `qkv[:, 1]` of a projection (T, 3, H, K).
        teacher_q, teacher_k: those of the teacher, (T, H, G), in the same dtype; K and G may differ.
        documents: boundaries of the documents, on the device of student_q.
        causal: whether a token sees only itself and what comes before it in its document.
        window: tokens that a token sees on either side of itself, at least 0; default: all. Pairs that are not seen
            count neither in the sum nor in the mean.
        normalization: what the sum over the pairs of a document is divided by. "pairs": their number, which is the
            square of the length if all are seen; the paper's. "padded_square": the square of `documents.max_seqlen`,
            as code does that takes the mean over padded squares, so a short document counts less.
        heads: "equal": both have H heads, and are compared one by one. "mean_of_groups": one has a multiple of the
            heads of the other; the mean of the scores of each group of heads that follow each other counts as one.
        weights: weight of each document in the sum, (S,), fp32 or fp64. Default: equal ones that sum to 1, over the
            documents that have a token.
        backend: "triton", "torch" or "reference"; by default the best one that can run and is verified.
    Returns:
        Scalar, fp32 (fp64 for fp64 activations); 0 without tokens. Gradients for student_q and student_k. A document
        of weight 0 gets gradients of 0. Under `torch.autocast`, the activations are first cast to its dtype.
        Deterministic: the same inputs give the same bits on one backend and machine. Where the student is near the
        teacher, the relative error of loss and gradients stays below 1e-3 in fp32 as long as the loss is above 1e-6
        of the teacher's mean squared score.
    Raises:
        TypeError, ValueError: a dtype, shape, device or setting does not match.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    name = "attention_score_loss"
    tensors = {"student_q": student_q, "student_k": student_k, "teacher_q": teacher_q, "teacher_k": teacher_k}
    _check_pairs(name, tensors, documents, causal, window, weights)
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"{name}: normalization must be one of {', '.join(map(repr, NORMALIZATIONS))}, got {normalization!r}"
        )
    count = _common_heads(name, student_q.shape[1], teacher_q.shape[1], heads)
    tensors = {name: x.to(autocast_dtype(x)) for name, x in tensors.items()}
    student_q, student_k, teacher_q, teacher_k = tensors.values()
    chosen = FAMILY.choose(backend, _described("score", tensors, count, documents, causal, window))
    if chosen == "reference":
        with without_autocast(student_q.device.type):
            return reference.attention_score_loss(
                **tensors,
                documents=documents,
                causal=causal,
                window=window,
                normalization=normalization,
                heads=heads,
                weights=weights,
            )
    if normalization == "pairs":
        pairs = _pairs(documents, causal, window)
    else:
        pairs = torch.full_like(documents.keys, documents.max_seqlen**2)
    arguments = _pair_arguments(tensors, count, documents, causal, window, _factors(documents, pairs, count, weights))
    return _with_gradients(_score(arguments, chosen), student_q, student_k)


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
    backend: str | None = None,
) -> Tensor:
    """Compare distributions over the tokens of a document, without a matrix of them in memory.

    Equivalent to  F.kl_div(log_softmax(student), log_softmax(teacher), log_target=True)  summed over columns, of the
    scaled scores q @ k.mT * K**-0.5 of each document; the mean over its heads and rows, and then over documents.
    Queries and keys give the attention loss of MiniLM; the values in the place of both give its value relations:
    `attention_relation_loss(v, v, teacher_v, teacher_v, documents)`.  Wang et al. 2020, arXiv:2002.10957.

    Args:
        student_q, student_k: of the student, (T, H, K), fp16, bf16, fp32 or fp64; contiguous in the last dimension.
        teacher_q, teacher_k: of the teacher, (T, H, G), in the same dtype; K and G may differ, H may not. All four can
            be cut into another number of relation heads: `x.reshape(T, relation_heads, -1)` (Wang et al. 2021,
            arXiv:2012.15828).
        documents, causal, window, weights: as for `attention_score_loss`.
        backend: "triton", "torch" or "reference"; by default the best one that can run and is verified.
    Returns:
        Scalar, fp32 (fp64 for fp64 activations), in nats; 0 without tokens. Gradients for student_q and student_k, and
        what else `attention_score_loss` promises.
    Raises:
        TypeError, ValueError: a dtype, shape, device or setting does not match.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    name = "attention_relation_loss"
    tensors = {"student_q": student_q, "student_k": student_k, "teacher_q": teacher_q, "teacher_k": teacher_k}
    _check_pairs(name, tensors, documents, causal, window, weights)
    count = student_q.shape[1]
    if teacher_q.shape[1] != count:
        raise ValueError(
            f"{name}: teacher_q must have {count} heads, as many as student_q, got {teacher_q.shape[1]}; cut all four "
            "into the same number of relation heads with x.reshape(T, relation_heads, -1)"
        )
    tensors = {name: x.to(autocast_dtype(x)) for name, x in tensors.items()}
    student_q, student_k, *_ = tensors.values()
    chosen = FAMILY.choose(backend, _described("relation", tensors, count, documents, causal, window))
    if chosen == "reference":
        with without_autocast(student_q.device.type):
            return reference.attention_relation_loss(
                **tensors, documents=documents, causal=causal, window=window, weights=weights
            )
    factors = _factors(documents, documents.cu_seqlens.diff(), count, weights)
    arguments = _pair_arguments(tensors, count, documents, causal, window, factors)
    return _with_gradients(_relation(arguments, chosen), student_q, student_k)


def hidden_state_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compare hidden states, those of the student behind a learned projection.

    Equivalent to  F.mse_loss(F.linear(student, weight, bias), teacher)  without the projected states in memory: the
    hidden-state and the embedding loss of TinyBERT, section 3.1.  Jiao et al. 2020, arXiv:1909.10351.

    Args:
        student: (R, D), fp16, bf16, fp32 or fp64.
        teacher: (R, E), in the same dtype.
        weight: projection, (E, D), fp32 or any other float dtype; None compares as they are, and D is E then.
        bias: (E,), any float dtype, or None.
        weights: weight of each row in the sum, (R,), fp32 or fp64. Default: equal ones that sum to 1.
        backend: "triton", "torch" or "reference"; by default the best one that can run and is verified.
    Returns:
        Scalar, fp32 (fp64 for fp64 activations); 0 without rows. Gradients for student, weight and bias, each in its
        own dtype. Under `torch.autocast`, the activations are first cast to its dtype. Deterministic.
    Raises:
        TypeError, ValueError: a dtype, shape or device does not match.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    name = "hidden_state_loss"
    _check_rows(name, {"student": student, "teacher": teacher}, "(R, D)", weights)
    if weight is None:
        if bias is not None:
            raise ValueError(f"{name}: bias needs weight, which is None; pass weight, or leave bias out")
        if teacher.shape[1] != student.shape[1]:
            raise ValueError(
                f"{name}: without weight teacher must have {student.shape[1]} columns, as student has, got "
                f"{teacher.shape[1]}; pass a weight ({teacher.shape[1]}, {student.shape[1]}) that projects the student"
            )
    else:
        checks.shape(name, "weight", weight, (teacher.shape[1], student.shape[1]), "columns of teacher and of student")
        checks.dtype(name, "weight", weight, checks.FLOATS)
        checks.shape(name, "bias", bias, (teacher.shape[1],), "one entry per column of teacher")
        checks.dtype(name, "bias", bias, checks.FLOATS)
        checks.same_device(name, "student", student, weight=weight, bias=bias)
    student, teacher = (x.to(autocast_dtype(x)) for x in (student, teacher))
    chosen = FAMILY.choose(backend, describe("hidden", student, (student.shape[1], teacher.shape[1])))
    if chosen == "reference":
        with without_autocast(student.device.type):
            return reference.hidden_state_loss(student, teacher, weight, bias, weights=weights)
    wide = accumulation_dtype(student.dtype)
    arguments = HiddenArguments(
        student=student.detach(),
        teacher=teacher.detach(),
        weight=None if weight is None else weight.detach().to(student.dtype),
        bias=None if bias is None else bias.detach().to(wide),
        factors=_row_factors(student, weights) / max(1, teacher.shape[1]),
        with_gradients=_any_gradient(student, weight, bias),
    )
    return _with_gradients(_hidden(arguments, chosen), student, weight, bias)


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compare predictions: the cross-entropy of the student under the distribution of the teacher.

    Equivalent to  F.cross_entropy(student_logits / t, softmax(teacher_logits / t)). There is no factor t^2: at another
    temperature than 1, gradients shrink with t^2, as in section 3.1 of TinyBERT.  Hinton et al. 2015,
    arXiv:1503.02531; Jiao et al. 2020, arXiv:1909.10351.

    Args:
        student_logits: (R, C), fp16, bf16, fp32 or fp64; C >= 1.
        teacher_logits: (R, C), in the same dtype.
        temperature: t, above 0.
        weights: weight of each row in the sum, (R,), fp32 or fp64. Default: equal ones that sum to 1.
        backend: "triton", "torch" or "reference"; by default the best one that can run and is verified.
    Returns:
        Scalar, fp32 (fp64 for fp64 logits), in nats; 0 without rows. Gradient for student_logits. Under
        `torch.autocast`, logits are first cast to its dtype. Deterministic.
    Raises:
        TypeError, ValueError: a dtype, shape, device or setting does not match.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    name = "soft_cross_entropy"
    student, teacher = student_logits, teacher_logits
    _check_rows(name, {"student_logits": student, "teacher_logits": teacher}, "(R, C)", weights)
    checks.shape(name, "teacher_logits", teacher, tuple(student.shape), "that of student_logits")
    if student.shape[1] == 0:
        raise ValueError(f"{name}: student_logits must have at least one class, got shape {tuple(student.shape)}")
    if not (isinstance(temperature, int | float) and 0.0 < temperature < math.inf):
        raise ValueError(f"{name}: temperature must be a finite number above 0, got {temperature!r}")
    student, teacher = (x.to(autocast_dtype(x)) for x in (student, teacher))
    chosen = FAMILY.choose(backend, describe("prediction", student, (student.shape[1], teacher.shape[1])))
    if chosen == "reference":
        with without_autocast(student.device.type):
            return reference.soft_cross_entropy(student, teacher, temperature=temperature, weights=weights)
    arguments = PredictionArguments(
        student=student.detach(),
        teacher=teacher.detach(),
        factors=_row_factors(student, weights),
        temperature=float(temperature),
        with_gradients=_any_gradient(student),
    )
    return _with_gradients(_prediction(arguments, chosen), student)


def _check_pairs(
    name: str,
    tensors: dict[str, Tensor],
    documents: Documents,
    causal: bool,
    window: int | None,
    weights: Tensor | None,
) -> None:
    if not isinstance(documents, Documents):
        raise TypeError(
            f"{name}: documents must be Documents, got {type(documents).__name__}; "
            "make them with Documents.build(cu_seqlens)"
        )
    student_q = tensors["student_q"]
    for which, x in tensors.items():
        checks.rank(name, which, x, "(T, H, K)")
        checks.dtype(name, which, x, checks.FLOATS)
        _check_same_dtype(name, which, x, "student_q", student_q)
        if x.shape[0] != documents.tokens:
            raise ValueError(
                f"{name}: {which} must have one row per token of documents ({documents.tokens}), got {x.shape[0]}"
            )
        if x.shape[1] == 0 or x.shape[2] == 0:
            raise ValueError(f"{name}: {which} must have a head of at least one element, got shape {tuple(x.shape)}")
        checks.last_dim_contiguous(name, which, x)
    checks.shape(name, "student_k", tensors["student_k"], tuple(student_q.shape), "that of student_q")
    checks.shape(name, "teacher_k", tensors["teacher_k"], tuple(tensors["teacher_q"].shape), "that of teacher_q")
    lists = {each: getattr(documents, each) for each in ("cu_seqlens", "order", "tiles")}
    others = {which: x for which, x in tensors.items() if which != "student_q"}
    checks.same_device(name, "student_q", student_q, **others, **lists)
    if not isinstance(causal, bool):
        raise TypeError(f"{name}: causal must be True or False, got {causal!r}")
    if window is not None and not (isinstance(window, int) and window >= 0):
        raise ValueError(
            f"{name}: window must be a whole number of tokens, or None to see the whole document, got {window!r}"
        )
    _check_weights(name, "student_q", student_q, weights, len(documents.keys), "one weight per document slot")


def _check_rows(name: str, tensors: dict[str, Tensor], dims: str, weights: Tensor | None) -> None:
    (first, student), (second, teacher) = tensors.items()
    for which, x in tensors.items():
        checks.rank(name, which, x, dims)
        checks.dtype(name, which, x, checks.FLOATS)
    _check_same_dtype(name, second, teacher, first, student)
    if teacher.shape[0] != student.shape[0]:
        raise ValueError(f"{name}: {second} must have {student.shape[0]} rows, as {first} has, got {teacher.shape[0]}")
    checks.same_device(name, first, student, **{second: teacher})
    _check_weights(name, first, student, weights, student.shape[0], "one weight per row")


def _check_same_dtype(name: str, which: str, x: Tensor, first: str, other: Tensor) -> None:
    if x.dtype != other.dtype:
        wanted = str(other.dtype).removeprefix("torch.")
        got = str(x.dtype).removeprefix("torch.")
        raise TypeError(
            f"{name}: {which} must be {wanted}, the dtype of {first}, got {got}; use {which}.to({first}.dtype)"
        )


def _check_weights(name: str, first: str, x: Tensor, weights: Tensor | None, count: int, why: str) -> None:
    if weights is not None and not isinstance(weights, Tensor):
        raise TypeError(
            f"{name}: weights must be a tensor, got {type(weights).__name__}; use torch.tensor(weights, "
            "dtype=torch.float32)"
        )
    checks.dtype(name, "weights", weights, _WEIGHTS)
    checks.shape(name, "weights", weights, (count,), why)
    checks.same_device(name, first, x, weights=weights)


def _common_heads(name: str, student: int, teacher: int, heads: str) -> int:
    """The number of heads that are compared."""
    if heads not in _HEADS:
        raise ValueError(f"{name}: heads must be one of {', '.join(map(repr, _HEADS))}, got {heads!r}")
    fewer, more = sorted((student, teacher))
    if heads == "equal" and fewer != more:
        way = "'mean_of_groups' compares means of groups of heads" if more % fewer == 0 else "leave this loss out"
        raise ValueError(
            f"{name}: with heads 'equal' teacher_q must have {student} heads, as student_q has, got {teacher}; {way}"
        )
    if more % fewer:
        raise ValueError(
            f"{name}: with heads 'mean_of_groups' one number of heads must be a multiple of the other, got {student} "
            f"of student_q and {teacher} of teacher_q; leave this loss out"
        )
    return fewer


def _described(
    loss: Literal["score", "relation"],
    tensors: dict[str, Tensor],
    count: int,
    documents: Documents,
    causal: bool,
    window: int | None,
) -> DistillCall:
    student, teacher = tensors["student_q"], tensors["teacher_q"]
    banded = causal or (window is not None and window < documents.max_seqlen)
    # those of groups of heads that are joined
    widths = (student.shape[1] * student.shape[2] // count, teacher.shape[1] * teacher.shape[2] // count)
    return describe(loss, student, widths, banded=banded, max_seqlen=documents.max_seqlen)


def _pair_arguments(
    tensors: dict[str, Tensor],
    count: int,
    documents: Documents,
    causal: bool,
    window: int | None,
    factors: Tensor,
) -> PairArguments:
    # The mean of the scores of n heads is one product of heads of n times the elements, divided by n.
    joined = {name: x.detach().reshape(len(x), count, x.shape[1] * x.shape[2] // count) for name, x in tensors.items()}
    scales = [count / x.shape[1] * float(x.shape[2]) ** -0.5 for x in (tensors["student_q"], tensors["teacher_q"])]
    # no two tokens of a document are farther apart
    window = -1 if window is None or window >= documents.max_seqlen else window
    return PairArguments(
        student_q=joined["student_q"],
        student_k=joined["student_k"],
        teacher_q=joined["teacher_q"],
        teacher_k=joined["teacher_k"],
        factors=factors.to(accumulation_dtype(tensors["student_q"].dtype)),
        cu_seqlens=documents.cu_seqlens,
        order=documents.order,
        tiles=documents.tiles,
        student_scale=scales[0],
        teacher_scale=scales[1],
        causal=causal,
        window=window,
        max_seqlen=documents.max_seqlen,
        with_gradients=_any_gradient(tensors["student_q"], tensors["student_k"]),
    )


def _pairs(documents: Documents, causal: bool, window: int | None) -> Tensor:
    """Pairs of a row and a column that it sees, of each document, int64 (S,)."""
    lengths = documents.cu_seqlens.diff().long()
    reach = (lengths - 1).clamp(min=0, max=window)
    # columns to the left of the diagonal: the first rows have fewer than `reach` of them
    left = reach * lengths - reach * (reach + 1) // 2
    return lengths + left * (1 if causal else 2)


def _factors(documents: Documents, number: Tensor, heads: int, weights: Tensor | None) -> Tensor:
    """Weights of the documents divided by heads and `number` (S,), in fp64."""
    if weights is None:
        some = (documents.cu_seqlens.diff() > 0).double()
        weights = some / some.sum().clamp(min=1)
    return weights.detach().double() / (heads * number.clamp(min=1))


def _row_factors(student: Tensor, weights: Tensor | None) -> Tensor:
    wide = accumulation_dtype(student.dtype)
    if weights is not None:
        return weights.detach().to(wide)
    rows = student.shape[0]
    return student.new_full((rows,), 1.0 / max(1, rows), dtype=wide)


def _any_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


class _Attached(torch.autograd.Function):
    """A loss whose gradients are known: the backward scales them."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, count: int, *tensors: Tensor | None) -> Tensor:
        gradients, inputs = tensors[:count], tensors[count:]
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2 + len(ctx.dtypes) :]
        scaled = (
            (gradient * dloss).to(dtype) if needed else None
            for gradient, dtype, needed in zip(ctx.saved_tensors, ctx.dtypes, wanted, strict=True)
        )
        return (None, None, *[None] * len(ctx.dtypes), *scaled)


def _with_gradients(results: Any, *inputs: Tensor | None) -> Tensor:
    """The loss, the first of the results, tied to the inputs that the other results are the gradients of."""
    loss, *gradients = results
    if not _any_gradient(*inputs):
        return loss
    shaped = [None if x is None else gradient.view(x.shape) for x, gradient in zip(inputs, gradients, strict=False)]
    apply: Any = _Attached.apply
    attached: Tensor = apply(loss, len(inputs), *shaped, *inputs)
    return attached


def _kept(x: Tensor, wanted: bool) -> Tensor:
    """An empty tensor for the gradient of x, in the dtype in which it waits for the backward."""
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    return x.new_empty(tuple(x.shape) if wanted else (0,), dtype=dtype)


def _scalar(x: Tensor) -> Tensor:
    return x.new_empty((), dtype=accumulation_dtype(x.dtype))


def _score_forward_fake(arguments: PairArguments, backend: str) -> PairResults:
    q, k, wanted = arguments.student_q, arguments.student_k, arguments.with_gradients
    return PairResults(_scalar(q), _kept(q, wanted), _kept(k, wanted))


def _relation_forward_fake(arguments: PairArguments, backend: str) -> PairResults:
    return _score_forward_fake(arguments, backend)


def _hidden_forward_fake(arguments: HiddenArguments, backend: str) -> HiddenResults:
    student, weight, bias, wanted = arguments.student, arguments.weight, arguments.bias, arguments.with_gradients
    wide = accumulation_dtype(student.dtype)
    return HiddenResults(
        loss=_scalar(student),
        dstudent=_kept(student, wanted),
        dweight=student.new_empty((0,) if weight is None or not wanted else tuple(weight.shape), dtype=wide),
        dbias=student.new_empty((0,) if bias is None or not wanted else tuple(bias.shape), dtype=wide),
    )


def _prediction_forward_fake(arguments: PredictionArguments, backend: str) -> PredictionResults:
    return PredictionResults(_scalar(arguments.student), _kept(arguments.student, arguments.with_gradients))


_score = operation(FAMILY, forward=_score_forward_fake, part="score")
_relation = operation(FAMILY, forward=_relation_forward_fake, part="relation")
_hidden = operation(FAMILY, forward=_hidden_forward_fake, part="hidden")
_prediction = operation(FAMILY, forward=_prediction_forward_fake, part="prediction")
