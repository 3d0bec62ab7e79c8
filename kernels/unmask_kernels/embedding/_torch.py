"""embedding on PyTorch's own kernels: the fast backend on CPU, and a plain one on GPUs.

On a CPU, rows are gathered, added and normalised a block at a time, so that the sums live in cache and never in memory;
the backward gathers them again. The native kernels run in fp32 whatever the dtype of the result. The gradients of the
tables come from PyTorch's dense embedding backward, which adds in a fixed order on CPU (by index) and on CUDA (by
sorting). The dropout mask is saved, one byte an element: drawing it takes longer than the rest.

On a CPU a fresh gradient of 30,522 x 768 costs more than everything else: 94 MB of new pages to clear.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .. import philox
from .arguments import Arguments, BackwardArguments, Gradients, Results

__all__ = ["backward", "forward"]

_BLOCK = 3 << 17  # elements worked on at a time on a CPU, 1.5 MiB of fp32, as in layer_norm


def forward(arguments: Arguments) -> Results:
    """Normalise a block of rows at a time; `keep` is bool (T, D)."""
    word, p = arguments.word, arguments.p
    tokens, width = len(arguments.ids), word.shape[1]
    keep = word.new_empty(0, dtype=torch.bool)
    if p > 0.0:
        assert arguments.key is not None
        keep = philox.keep_rows(arguments.key, arguments.row_keys, width, p)
    y = word.new_empty((tokens, width), dtype=arguments.dtype)
    mean, rstd = word.new_empty(tokens), word.new_empty(tokens)
    for rows in _blocks(word, tokens):
        normalised, mean[rows, None], rstd[rows, None] = torch.native_layer_norm(
            _sum(arguments, rows), (width,), arguments.weight, arguments.bias, arguments.eps
        )
        y[rows] = normalised if p == 0.0 else _dropped(normalised, keep[rows], p)
    return Results(y, mean, rstd, keep)


def backward(arguments: BackwardArguments) -> Gradients:
    """Compute dh a block of rows at a time, then add it up by row of each table."""
    word, position, segment, weight = arguments.word, arguments.position, arguments.segment, arguments.weight
    tokens, width = arguments.dy.shape
    dh = word.new_empty((tokens, width))
    dweight, dbias = torch.zeros_like(weight), torch.zeros_like(weight)
    for rows in _blocks(word, tokens):
        h = _sum(arguments, rows)
        dnormalised = arguments.dy[rows].to(h.dtype)
        if arguments.p > 0.0:
            dnormalised = _dropped(dnormalised, arguments.keep[rows], arguments.p)
        mean, rstd = arguments.mean[rows, None], arguments.rstd[rows, None]
        # The native backward only looks at whether there is a bias, so weight stands in for it.
        dh[rows], dweight_rows, dbias_rows = torch.ops.aten.native_layer_norm_backward(
            dnormalised, h, [width], mean, rstd, weight, weight, [True] * 3
        )
        dweight += dweight_rows
        dbias += dbias_rows
    if arguments.segments is None:
        dsegment = torch.zeros_like(segment)
        dsegment[0] = dh.sum(0)
    else:
        dsegment = _table_gradient(dh, arguments.segments, segment)
    return Gradients(
        dword=_table_gradient(dh, arguments.ids, word),
        dposition=_table_gradient(dh, arguments.positions, position),
        dsegment=dsegment,
        dweight=dweight,
        dbias=dbias,
    )


def _table_gradient(dh: Tensor, index: Tensor, table: Tensor) -> Tensor:
    """Sum of the rows of dh by the row of the table that each was read from."""
    gradient: Tensor = torch.ops.aten.embedding_dense_backward(dh, index, len(table), -1, False)
    return gradient


def _sum(arguments: Arguments | BackwardArguments, rows: slice) -> Tensor:
    """h of these rows."""
    segment, segments = arguments.segment, arguments.segments
    h = arguments.word.index_select(0, arguments.ids[rows])
    h += arguments.position.index_select(0, arguments.positions[rows])
    h += segment[0] if segments is None else segment.index_select(0, segments[rows])
    return h


def _dropped(x: Tensor, keep: Tensor, p: float) -> Tensor:
    # PyTorch multiplies by bytes four times faster than by the same memory as bool.
    return (x * (1.0 / (1.0 - p))).mul_(keep.view(torch.uint8))


def _blocks(word: Tensor, tokens: int) -> Iterator[slice]:
    """Rows to work on at a time, at least one block: what fits in cache on a CPU, else all."""
    size = max(1, _BLOCK // word.shape[1]) if word.device.type == "cpu" else max(1, tokens)
    return (slice(start, start + size) for start in range(0, max(1, tokens), size))
