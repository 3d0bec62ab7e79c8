"""embedding on PyTorch's own kernels: the fast path on CPU, and a plain one on GPUs.

Rows are gathered, added and normalised a block at a time on a CPU, so that the sums live in cache and never in memory;
the backward gathers them again. The native kernels run in fp32 whatever the output dtype. The gradients of the tables
come from PyTorch's dense embedding backward, which adds in a fixed order on CPU (by index) and on CUDA (by sorting).
The dropout mask is saved, one byte an element: drawing it takes longer than the rest.

On a CPU a fresh gradient of 30,522 x 768 costs more than everything else: 94 MB of new pages to clear.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from unmask_kernels import philox

from .arguments import Arguments

__all__ = ["backward", "forward"]

_BLOCK = 3 << 17  # elements worked on at a time on a CPU, 1.5 MiB of fp32, as in layer_norm


def forward(
    ids: Tensor, word: Tensor, position: Tensor, segment: Tensor, weight: Tensor, bias: Tensor, arguments: Arguments
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (T, D), mean (T,), rstd (T,), and keep (T, D), which is empty without dropout."""
    tokens, width, p = len(ids), word.shape[1], arguments.p
    keep = word.new_empty(0, dtype=torch.bool)
    if p > 0.0:
        assert arguments.key is not None
        keep = philox.keep_rows(arguments.key, arguments.row_keys, width, p)
    y = word.new_empty((tokens, width), dtype=arguments.dtype)
    mean, rstd = word.new_empty(tokens), word.new_empty(tokens)
    for rows in _blocks(word, tokens):
        h = _sum(ids, word, position, segment, arguments, rows)
        normed, mean[rows, None], rstd[rows, None] = torch.native_layer_norm(h, (width,), weight, bias, arguments.eps)
        y[rows] = normed if p == 0.0 else _dropped(normed, keep[rows], p)
    return y, mean, rstd, keep


def backward(
    dy: Tensor,
    ids: Tensor,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    keep: Tensor,
    arguments: Arguments,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dword (V, D), dposition (P, D), dsegment (N, D), dweight (D,), dbias (D,)."""
    tokens, width, p = len(ids), word.shape[1], arguments.p
    dh = word.new_empty((tokens, width))
    dweight, dbias = torch.zeros_like(weight), torch.zeros_like(weight)
    for rows in _blocks(word, tokens):
        h = _sum(ids, word, position, segment, arguments, rows)
        dnormed = dy[rows].to(h.dtype)
        if p > 0.0:
            dnormed = _dropped(dnormed, keep[rows], p)
        # The native backward only looks at whether there is a bias, so weight stands in for it.
        dh[rows], some_dweight, some_dbias = torch.ops.aten.native_layer_norm_backward(
            dnormed, h, [width], mean[rows, None], rstd[rows, None], weight, weight, [True] * 3
        )
        dweight += some_dweight
        dbias += some_dbias
    if arguments.segments is None:
        dsegment = torch.zeros_like(segment)
        dsegment[0] = dh.sum(0)
    else:
        dsegment = _table_gradient(dh, arguments.segments, segment)
    dword, dposition = _table_gradient(dh, ids, word), _table_gradient(dh, arguments.places, position)
    return dword, dposition, dsegment, dweight, dbias


def _table_gradient(dh: Tensor, index: Tensor, table: Tensor) -> Tensor:
    """Sum of the rows of dh by the row of the table that each was read from."""
    gradient: Tensor = torch.ops.aten.embedding_dense_backward(dh, index, len(table), -1, False)
    return gradient


def _sum(ids: Tensor, word: Tensor, position: Tensor, segment: Tensor, arguments: Arguments, rows: slice) -> Tensor:
    """h of these rows."""
    h = word.index_select(0, ids[rows])
    h += position.index_select(0, arguments.places[rows])
    h += segment[0] if arguments.segments is None else segment.index_select(0, arguments.segments[rows])
    return h


def _dropped(x: Tensor, keep: Tensor, p: float) -> Tensor:
    # PyTorch multiplies by bytes four times faster than by the same memory as bool.
    return (x * (1.0 / (1.0 - p))).mul_(keep.view(torch.uint8))


def _blocks(word: Tensor, tokens: int) -> Iterator[slice]:
    """Rows to work on at a time, at least one block: what fits in cache on a CPU, else all."""
    size = max(1, _BLOCK // word.shape[1]) if word.device.type == "cpu" else max(1, tokens)
    return (slice(start, start + size) for start in range(0, max(1, tokens), size))
