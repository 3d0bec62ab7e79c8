"""Masked-language-model losses of other libraries; each takes the arguments of `mlm_loss` and returns the sum.

    all-token       logits and loss of all tokens in fp32, label -100 for those not masked, as BertForMaskedLM of
                    `transformers` computes them
    masked          the same on the masked rows only
    compiled        `masked` under torch.compile
    torch whole     `F.linear_cross_entropy` (PyTorch 2.13) on the masked rows
    torch chunked   the same with `LinearCrossEntropyOptions()`
    liger           the fused linear cross-entropy of liger-kernel, on a GPU with that package
    cce             cut-cross-entropy, which skips small gradients by its default threshold, on a GPU with that package;
                    release 25.1.1 takes no bias, so it does less work

As in ours, each call converts the fp32 table to the activation dtype. None of them counts correct predictions.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from bench.variants import compiled
from torch import Tensor

__all__ = ["HEADS", "masked_head", "names", "peers"]


def names() -> list[str]:
    """Return the names of the peers that can run with the installed versions on this machine."""
    found = ["all-token", "masked", "compiled"]
    if hasattr(F, "linear_cross_entropy"):
        found += ["torch whole", "torch chunked"]
    if torch.cuda.is_available():
        found += ["liger"] * (importlib.util.find_spec("liger_kernel") is not None)
        found += ["cce"] * (importlib.util.find_spec("cut_cross_entropy") is not None)
    return found


def peers() -> dict[str, Callable[..., Tensor]]:
    """Return the peers of `names()`, by name."""
    functions: dict[str, Callable[..., Tensor]] = {
        "all-token": all_token_head,
        "masked": masked_head,
        "compiled": compiled(masked_head),
        "torch whole": partial(_linear_cross_entropy, None),
    }
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        functions["torch chunked"] = partial(_linear_cross_entropy, torch.nn.LinearCrossEntropyOptions())
    functions |= HEADS
    return {name: functions[name] for name in names()}


def masked_head(hidden: Tensor, positions: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute logits of the masked rows in the dtype of hidden (T, D), and cross-entropy in fp32; returns the sum."""
    logits = F.linear(hidden[positions], weight.to(hidden.dtype), bias.to(hidden.dtype))
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def all_token_head(hidden: Tensor, positions: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute logits of every token, and cross-entropy with label -100 where nothing is masked; returns the sum."""
    everywhere = torch.full((len(hidden),), -100, device=hidden.device).index_copy_(0, positions, labels)
    logits = F.linear(hidden, weight.to(hidden.dtype), bias.to(hidden.dtype))
    return F.cross_entropy(logits.float(), everywhere, reduction="sum")


def _linear_cross_entropy(
    options: Any, hidden: Tensor, positions: Tensor, labels: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    rows = hidden[positions]
    loss: Tensor = F.linear_cross_entropy(
        rows, weight.to(rows.dtype), labels, linear_bias=bias.to(rows.dtype), reduction="sum", options=options
    )
    return loss


def _liger(hidden: Tensor, positions: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    library = importlib.import_module("liger_kernel.transformers.functional")
    rows = hidden[positions]
    loss: Tensor = library.liger_fused_linear_cross_entropy(
        rows, weight.to(rows.dtype), labels, bias.to(rows.dtype), reduction="sum"
    )
    return loss


def _cut_cross_entropy(hidden: Tensor, positions: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    head = importlib.import_module("cut_cross_entropy").linear_cross_entropy
    rows = hidden[positions]
    takes_bias = "bias" in inspect.signature(head).parameters
    named = {"bias": bias.to(rows.dtype)} if takes_bias else {}
    loss: Tensor = head(rows, weight.to(rows.dtype), labels, reduction="sum", **named)
    # all peers compute the same gradients
    return loss if takes_bias else loss + 0.0 * bias.sum()


HEADS = {"liger": _liger, "cce": _cut_cross_entropy}
"""The peers of other packages."""
