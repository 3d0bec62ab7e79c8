"""mlm_loss: the public operation, its checks and its registration.

Shapes: hidden (T, D); positions, labels (M,); weight (V, D); bias (V,); dlogits (last chunk, V and padding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..capability import architecture
from ..precision import accumulation_dtype, autocast_dtype, without_autocast
from ..registration import register, save, saved
from . import reference
from .choice import FAMILY, MLMLossCall
from .chunks import chunk_sizes

__all__ = ["MLMLoss", "mlm_loss"]


@dataclass(frozen=True, slots=True)
class MLMLoss:
    """What `mlm_loss` returns, all scalars on the device of hidden.

    Attributes:
        loss_sum: summed loss in nats, fp32 (fp64 for fp64 hidden); carries the gradient.
        count: number of predicted tokens, int64.
        correct: how many of them were predicted right (top 1), int64.
    """

    loss_sum: Tensor
    count: Tensor
    correct: Tensor


def mlm_loss(
    hidden: Tensor,
    positions: Tensor | None,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    backend: str | None = None,
) -> MLMLoss:
    """Sum the cross-entropy of the masked tokens without forming the logits of all tokens.

    Equivalent to  F.cross_entropy(F.linear(hidden[positions], weight, bias), labels, reduction="sum")  with at most
    one chunk of logits in memory. Divide by the count of the whole optimiser step, over all micro-batches and ranks.

    Args:
        hidden: (T, D), fp16, bf16, fp32 or fp64; or (M, D) rows taken already, with positions None.
        positions: rows of hidden to predict, int64 (M,) in [0, T); M may be 0. Unused slots may hold any row. The
            gradients of a repeated row add up, on a GPU in no fixed order: there only distinct rows give stable bits.
        labels: ids to predict, int64 (M,) below V; every negative one marks an unused slot, which adds nothing.
        weight: output projection, normally the tied word embeddings, (V, D), V >= 1; fp32 or the dtype of hidden.
        bias: (V,), or None.
        backend: "triton", "torch" or "reference"; by default the best one that can run.
    Returns:
        `MLMLoss(loss_sum, count, correct)`; 0 with zero gradients when nothing is masked. Gradients for hidden,
        weight and bias, each in its own dtype. Under `torch.autocast`, hidden is first cast to its dtype.
    Raises:
        TypeError, ValueError: a dtype, shape, device or range does not match; on CPU tensors, and with UNMASK_DEBUG=1
            on a GPU, also a position or label that is out of range.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    _check(hidden, positions, labels, weight, bias)
    hidden = hidden.to(autocast_dtype(hidden))
    vocabulary, width = weight.shape
    call = MLMLossCall(hidden.device.type, architecture(hidden), hidden.dtype, vocabulary, width)
    chosen = FAMILY.choose(backend, call)
    if chosen == "reference":
        with without_autocast(hidden.device.type):
            return MLMLoss(*reference.mlm_loss(hidden, positions, labels, weight, bias))
    loss, count, correct = _MLMLoss.apply(  # type: ignore[no-untyped-call]
        hidden, positions, labels, weight, bias, torch.is_grad_enabled(), chosen
    )
    return MLMLoss(loss, count, correct)


def _check(
    hidden: Tensor,
    positions: Tensor | None,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> None:
    name = "mlm_loss"
    checks.rank(name, "hidden", hidden, "(T, D)")
    checks.rank(name, "labels", labels, "(M,)")
    checks.rank(name, "weight", weight, "(V, D)")
    checks.dtype(name, "hidden", hidden, checks.FLOATS)
    checks.dtype(name, "weight", weight, checks.FLOATS)
    checks.dtype(name, "labels", labels, (torch.int64,))
    if weight.shape[0] == 0:
        raise ValueError(
            f"mlm_loss: weight must have a row for every id, at least one, got shape {tuple(weight.shape)}"
        )
    if weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"mlm_loss: weight must have {hidden.shape[1]} columns, the last dimension of hidden, "
            f"got shape {tuple(weight.shape)}"
        )
    if positions is not None:
        checks.dtype(name, "positions", positions, (torch.int64,))
        checks.shape(name, "positions", positions, tuple(labels.shape), "one row per label")
    elif hidden.shape[0] != labels.shape[0]:
        raise ValueError(
            f"mlm_loss: without positions hidden must have one row per label ({labels.shape[0]}), "
            f"got {hidden.shape[0]}; pass positions to take rows"
        )
    if bias is not None:
        checks.shape(name, "bias", bias, (weight.shape[0],), "one entry per row of weight")
        checks.dtype(name, "bias", bias, checks.FLOATS)
    checks.same_device(name, "hidden", hidden, positions=positions, labels=labels, weight=weight, bias=bias)
    if positions is not None:
        checks.contents(name, "positions", positions, len(hidden), "one of the rows of hidden")
    if hidden.device.type == "cpu" or checks.DEBUG:
        checks.contents(name, "labels", labels.clamp(min=0), len(weight), "an id, or negative for an unused slot")


def _forward_fake(
    hidden: Tensor,
    positions: Tensor | None,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    with_gradients: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    wide = accumulation_dtype(hidden.dtype)
    scalars = (
        hidden.new_empty((), dtype=wide),
        hidden.new_empty((), dtype=torch.int64),
        hidden.new_empty((), dtype=torch.int64),
    )
    if not with_gradients:
        dx, dweight, dbias, dlogits = (hidden.new_empty((0,)) for _ in range(4))
        return (*scalars, dx, dweight, dbias, dlogits)
    slots, (vocabulary, width) = labels.shape[0], weight.shape
    chunks = chunk_sizes(backend, hidden.device.type, slots, vocabulary, hidden.element_size())
    return (
        *scalars,
        hidden.new_empty((slots, width)),
        hidden.new_empty((vocabulary if chunks.number > 1 else 0, width), dtype=wide),
        hidden.new_empty((0,) if bias is None else (vocabulary,), dtype=wide),
        hidden.new_empty((slots - (chunks.number - 1) * chunks.rows, chunks.columns)),
    )


def _backward_fake(
    dloss: Tensor,
    hidden: Tensor,
    positions: Tensor | None,
    dweight: Tensor,
    dlogits: Tensor,
    vocabulary: int,
    backend: str,
) -> Tensor:
    return hidden.new_empty((vocabulary, hidden.shape[1]), dtype=accumulation_dtype(hidden.dtype))


register(FAMILY, forward=_forward_fake, backward=_backward_fake)


class _MLMLoss(torch.autograd.Function):
    """The forward computes the gradients; the backward scales them, and multiplies the last chunk of dweight."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        positions: Tensor | None,
        labels: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        grad_enabled: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        needed = grad_enabled and any(ctx.needs_input_grad)
        loss, count, correct, *gradients = torch.ops.unmask.mlm_loss_fwd(
            hidden, positions, labels, weight, bias, needed, backend
        )
        save(ctx, hidden, positions, *gradients, weight.shape[0], backend)
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(count, correct)
        return loss, count, correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dloss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden, positions, dx, partial, dbias, dlogits, *settings = saved(ctx)
        weight_dtype, bias_dtype = ctx.dtypes
        # a GPU rounds a scalar tensor to the dtype of what it multiplies, and 1 / count has more than 8 bits
        dhidden = (dx.to(dloss.dtype) * dloss).to(dx.dtype)
        if positions is not None:
            # unused slots may repeat a row; they add zeros
            dhidden = hidden.new_zeros(hidden.shape).index_add_(0, positions, dhidden)
        dweight = None
        if ctx.needs_input_grad[3]:
            dweight = torch.ops.unmask.mlm_loss_bwd(dloss, hidden, positions, partial, dlogits, *settings)
            dweight = dweight.to(weight_dtype)
        return (
            dhidden,
            None,
            None,
            dweight,
            None if bias_dtype is None else (dbias * dloss).to(bias_dtype),
            *[None] * 2,
        )
