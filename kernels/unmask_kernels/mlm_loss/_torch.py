"""mlm_loss by PyTorch's matrix products, one chunk of logits at a time; gradients are made together with the loss.

The loss is a scalar, so its gradients are known up to one factor when the logits are at hand: they never have to be
formed again. A chunk of logits in the dtype of hidden has at most `_CHUNK_BYTES`; its softmax is taken in fp32 for a
few rows at a time, which stay in cache on a CPU, and takes the place of the logits.

    products: 3 of 2 M V D flops; passes over the chunk in memory: write logits, read and write once, read twice

The log-sum-exp is max - log(probability of the max), which costs nothing beyond the softmax: that probability is at
least 1 / V, so its logarithm is safe. Unused slots (negative labels) keep their rows, scaled by 0: shapes stay.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..precision import accumulation_dtype

__all__ = ["forward"]

_CHUNK_BYTES = 1 << 27
_CACHED = 1 << 19  # elements of a block of rows on a CPU
_WIDENED = 1 << 26  # and on a GPU, where it only bounds the copies in fp32


def forward(
    hidden: Tensor,
    positions: Tensor | None,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    with_gradients: bool,
) -> tuple[Tensor, ...]:
    """loss, count, correct and, when asked for, dhidden, dweight, dbias of the loss (else empty tensors)."""
    wide = accumulation_dtype(hidden.dtype)
    rows = hidden if positions is None else hidden[positions]
    valid = labels >= 0
    targets = labels.clamp(min=0)[:, None]
    projection = weight.to(rows.dtype)
    offset = None if bias is None else bias.to(rows.dtype)
    slots, vocabulary = len(rows), len(weight)
    loss = torch.zeros((), dtype=wide, device=rows.device)
    correct = torch.zeros((), dtype=torch.int64, device=rows.device)
    if with_gradients:
        drows = torch.empty_like(rows)
        dweight = (torch.empty if slots else torch.zeros)(weight.shape, dtype=wide, device=rows.device)
        dbias = torch.zeros(vocabulary if bias is not None else 0, dtype=wide, device=rows.device)
    step = max(1, _CHUNK_BYTES // (vocabulary * rows.element_size()))
    for start in range(0, slots, step):
        chunk = slice(start, start + step)
        here, target = valid[chunk, None], targets[chunk]
        x = rows[chunk] * here
        logits = x @ projection.t() if offset is None else torch.addmm(offset, x, projection.t())
        for some in _row_blocks(logits):
            # softmax and loss in fp32; the probabilities take the place of their logits
            exact = logits[some].to(wide)
            top, predicted = exact.max(-1, keepdim=True)
            probabilities = torch.softmax(exact, -1)
            log_normaliser = top - probabilities.gather(1, predicted).log()
            loss += ((log_normaliser - exact.gather(1, target[some])) * here[some]).sum()
            correct += ((predicted == target[some]) & here[some]).sum()
            if with_gradients:
                logits[some] = probabilities.scatter_add_(1, target[some], torch.full_like(top, -1.0))
        if with_gradients:
            dlogits = logits
            drows[chunk] = (dlogits @ projection) * here
            # (D, rows) x (rows, V) is the faster orientation of this product on a CPU
            of_chunk = (x.t() @ dlogits).t()
            dweight = dweight.copy_(of_chunk) if start == 0 else dweight.add_(of_chunk)
            if bias is not None:
                dbias += torch.mv(dlogits.t(), here[:, 0].to(x.dtype))
    if not with_gradients:
        return (loss, valid.sum(), correct, *(rows.new_empty(0) for _ in range(3)))
    if positions is not None:
        # unused slots may repeat a row; they add zeros
        drows = torch.zeros_like(hidden).index_add_(0, positions, drows)
    return loss, valid.sum(), correct, drows, dweight, dbias


def _row_blocks(logits: Tensor) -> Iterator[slice]:
    count, vocabulary = logits.shape
    rows = max(1, (_CACHED if logits.device.type == "cpu" else _WIDENED) // vocabulary)
    for start in range(0, count, rows):
        yield slice(start, start + rows)
