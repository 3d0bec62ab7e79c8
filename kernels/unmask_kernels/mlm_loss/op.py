"""mlm_loss: the public operation, its checks and its registration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..precision import accumulation_dtype, autocast_dtype, without_autocast
from ..registration import operation
from . import reference
from .arguments import Arguments, BackwardArguments, Gradients, Results
from .choice import FAMILY, describe
from .chunks import chunk_sizes

__all__ = ["MLMLoss", "mlm_loss"]


class MLMLoss(NamedTuple):
    """What `mlm_loss` returns, all scalars on the device of hidden.

    It is a tuple of tensors, so that backward hooks of a module that returns it are called.

    Attributes:
        loss_sum: summed loss in nats, fp32 (fp64 for fp64 hidden); carries the gradient.
        count: number of predicted tokens, int64.
        correct: how many of them were predicted right (top 1), int64.
    """

    loss_sum: Tensor
    count: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
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
    needed = any(x is not None and x.requires_grad for x in (hidden, weight, bias))
    arguments = Arguments(hidden, positions, labels, weight, bias, with_gradients=torch.is_grad_enabled() and needed)
    _check(arguments)
    arguments = arguments._replace(hidden=hidden.to(autocast_dtype(hidden)))
    chosen = FAMILY.choose(backend, describe(arguments))
    if chosen == "reference":
        with without_autocast(hidden.device.type):
            return MLMLoss(*reference.mlm_loss(arguments.hidden, positions, labels, weight, bias))
    return MLMLoss(*_mlm_loss(arguments, chosen))


def _check(arguments: Arguments) -> None:
    name = "mlm_loss"
    hidden, positions, labels, weight, bias, _ = arguments
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
    checks.dtype(name, "positions", positions, (torch.int64,))
    checks.shape(name, "positions", positions, tuple(labels.shape), "one row per label")
    if positions is None and hidden.shape[0] != labels.shape[0]:
        raise ValueError(
            f"mlm_loss: without positions hidden must have one row per label ({labels.shape[0]}), "
            f"got {hidden.shape[0]}; pass positions to take rows"
        )
    checks.shape(name, "bias", bias, (weight.shape[0],), "one entry per row of weight")
    checks.dtype(name, "bias", bias, checks.FLOATS)
    checks.same_device(name, "hidden", hidden, positions=positions, labels=labels, weight=weight, bias=bias)
    checks.contents(name, "positions", positions, len(hidden), "one of the rows of hidden")
    if hidden.device.type == "cpu" or checks.DEBUG:
        checks.contents(name, "labels", labels.clamp(min=0), len(weight), "an id, or negative for an unused slot")


def _forward_fake(arguments: Arguments, backend: str) -> Results:
    hidden, _, labels, weight, bias, with_gradients = arguments
    wide = accumulation_dtype(hidden.dtype)
    loss, count, correct = (hidden.new_empty((), dtype=dtype) for dtype in (wide, torch.int64, torch.int64))
    if not with_gradients:
        return Results(loss, count, correct, *(hidden.new_empty((0,)) for _ in range(4)))
    slots, (vocabulary, width) = labels.shape[0], weight.shape
    chunks = chunk_sizes(backend, hidden.device.type, slots, vocabulary, hidden.element_size())
    return Results(
        loss,
        count,
        correct,
        dx=hidden.new_empty((slots, width)),
        dweight=hidden.new_empty((vocabulary if chunks.number > 1 else 0, width), dtype=wide),
        dbias=hidden.new_empty((0,) if bias is None else (vocabulary,), dtype=wide),
        dlogits=hidden.new_empty((slots - (chunks.number - 1) * chunks.rows, chunks.columns)),
    )


def _backward_fake(arguments: BackwardArguments, backend: str) -> Gradients:
    hidden, weight, bias = arguments.hidden, arguments.weight, arguments.bias
    return Gradients(
        dhidden=hidden.new_empty(tuple(hidden.shape)),
        dweight=weight.new_empty(tuple(weight.shape) if arguments.needs_weight else (0,)),
        dbias=hidden.new_empty((0,)) if bias is None else bias.new_empty(tuple(bias.shape)),
    )


_mlm_loss = operation(FAMILY, forward=_forward_fake, backward=_backward_fake, returned=3)
