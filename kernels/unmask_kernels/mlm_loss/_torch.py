"""mlm_loss by PyTorch: softmax, loss and gradient of a chunk of logits in fp32, a few rows at a time.

A block of rows, widened to fp32, stays in cache on a CPU; its gradient replaces its logits. `chunks` computes the
products around it.

The log-sum-exp is max - log(p of the max), which costs nothing beyond the softmax. That probability is at least 1 / V,
so its logarithm is safe. A softmax rounded to 16 bits is too inexact for the loss itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import chunks
from .arguments import Arguments, BackwardArguments, Gradients, Results

__all__ = ["backward", "forward"]

_CACHED = 1 << 19  # elements of a block of rows on a CPU
_WIDENED = 1 << 24  # and on a GPU, where it only bounds the copies in fp32


def forward(arguments: Arguments) -> Results:
    """Take the chunks one after the other."""
    return chunks.forward(_cross_entropy, "torch", arguments)


def backward(arguments: BackwardArguments) -> Gradients:
    """Scale what the forward computed, and finish the gradient of weight."""
    return chunks.backward("torch", arguments)


def _cross_entropy(chunk: chunks.Chunk) -> None:
    """See `chunks.Chunk`."""
    logits, labels, losses, correct, dbias, vocabulary, with_gradients = chunk
    logits = logits[:, :vocabulary]
    valid, targets = (labels >= 0)[:, None], labels.clamp(min=0)[:, None]
    for rows in _row_blocks(logits):
        z, used, target = logits[rows].to(losses.dtype), valid[rows], targets[rows]
        m, predicted = z.max(-1, keepdim=True)
        p = torch.softmax(z, -1)
        lse = m - p.gather(1, predicted).log()
        losses[rows] = torch.where(used, lse - z.gather(1, target), 0)[:, 0]
        correct[rows] = ((predicted == target) & used)[:, 0]
        if not with_gradients:
            continue
        one = used.to(p.dtype)
        dlogits = p.mul_(one).scatter_add_(1, target, -one)
        logits[rows] = dlogits
        if dbias is not None:
            dbias += dlogits.sum(0)


def _row_blocks(logits: Tensor) -> Iterator[slice]:
    count, vocabulary = logits.shape
    rows = max(1, (_CACHED if logits.device.type == "cpu" else _WIDENED) // vocabulary)
    for start in range(0, count, rows):
        yield slice(start, start + rows)
