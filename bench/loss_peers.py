"""Heads with a masked-language-model loss as others have them; each takes the arguments of `mlm_loss`, returns a sum.

    all-token   logits and loss of all tokens with labels -100, widened to fp32, as `transformers`' BertForMaskedLM
    masked      the same on the masked rows only
    compiled    `masked` under torch.compile
    torch whole, torch chunked    `F.linear_cross_entropy` (PyTorch 2.13) on the masked rows, without and with options
    liger       its fused linear cross-entropy, on a GPU when the package liger-kernel is installed
    cce         cut cross-entropy with its own threshold below which gradients are skipped, on a GPU when the package
                cut-cross-entropy is installed; without the bias where the release takes none (25.1.1): less work

The fp32 table is narrowed inside each call, as in ours. None of them counts correct predictions.
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
from bench.peers import compiled
from torch import Tensor

__all__ = ["HEADS", "masked_head", "names", "peers"]


def names() -> list[str]:
    """The peers that exist with these versions, on this machine."""
    found = ["all-token", "masked", "compiled"]
    if hasattr(F, "linear_cross_entropy"):
        found += ["torch whole", "torch chunked"]
    if torch.cuda.is_available():
        found += ["liger"] * (importlib.util.find_spec("liger_kernel") is not None)
        found += ["cce"] * (importlib.util.find_spec("cut_cross_entropy") is not None)
    return found


def peers() -> dict[str, Callable[..., Tensor]]:
    """The functions of `names`."""
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
    """Logits of the masked rows in the dtype of hidden, cross-entropy in fp32."""
    logits = F.linear(hidden[positions], weight.to(hidden.dtype), bias.to(hidden.dtype))
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def all_token_head(hidden: Tensor, positions: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits of every token, labels -100 where nothing is masked."""
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
    # every peer has the same gradients
    return loss if takes_bias else loss + 0.0 * bias.sum()


HEADS = {"liger": _liger, "cce": _cut_cross_entropy}
"""Those of other packages."""
