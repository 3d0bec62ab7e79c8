"""mlm_loss by PyTorch: softmax and loss of a chunk of logits in fp32, a few rows at a time.

A block of rows, widened to fp32, stays in cache on a CPU; its gradient takes the place of its logits. The products
around it are in `chunks`, 3 of 2 M V D operations each.

The log-sum-exp is max - log(probability of the max), which costs nothing beyond the softmax: that probability is at
least 1 / V, so its logarithm is safe. A softmax rounded to 16 bits is too inexact for the loss itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from . import chunks

__all__ = ["backward", "forward"]

_CACHED = 1 << 19  # elements of a block of rows on a CPU
_WIDENED = 1 << 24  # and on a GPU, where it only bounds the copies in fp32


def _row_pass(
    logits: Tensor,
    labels: Tensor,
    losses: Tensor,
    hits: Tensor,
    dbias: Tensor | None,
    *,
    vocabulary: int,
    with_gradients: bool,
) -> None:
    """See `chunks.RowPass`."""
    narrow = logits[:, :vocabulary]
    used = (labels >= 0)[:, None]
    targets = labels.clamp(min=0)[:, None]
    for some in _row_blocks(narrow):
        here, target = used[some], targets[some]
        exact = narrow[some].to(losses.dtype)
        top, predicted = exact.max(-1, keepdim=True)
        probabilities = torch.softmax(exact, -1)
        log_normaliser = top - probabilities.gather(1, predicted).log()
        loss = log_normaliser - exact.gather(1, target)
        losses[some] = torch.where(here, loss, 0)[:, 0]
        hits[some] = ((predicted == target) & here)[:, 0]
        if not with_gradients:
            continue
        share = here.to(exact.dtype)
        probabilities.mul_(share).scatter_add_(1, target, -share)
        narrow[some] = probabilities
        if dbias is not None:
            dbias += probabilities.sum(0)


def _row_blocks(logits: Tensor) -> Iterator[slice]:
    count, vocabulary = logits.shape
    rows = max(1, (_CACHED if logits.device.type == "cpu" else _WIDENED) // vocabulary)
    for start in range(0, count, rows):
        yield slice(start, start + rows)


forward = partial(chunks.forward, _row_pass, "torch")
backward = partial(chunks.backward, "torch")
