"""The loop over chunks of logits that the backends of mlm_loss share: a library multiplies, a backend does the rest.

    forward     for each chunk of rows x:   logits = x W^T + b
                                            losses, and dlogits in place of logits (the backend's `cross_entropy`)
                                            dx = dlogits W,  dW += dlogits^T x  (of the last chunk: in the backward)
    backward    dW = dloss * (dlogits^T x of the last chunk + dW of the others)

x (M, D) are the masked rows, W (V, D) and b (V,) the projection. One buffer of at most `_CHUNK_BYTES` holds a chunk of
logits; chunks are even. The last chunk stays in the buffer until the backward. Its part of dW is written once, already
scaled by the gradient of the loss, so dW and a scaled copy never exist side by side.

On a CPU the `torch` backend multiplies over `_BLOCK` columns at a time: operands stay in cache, and the fp32 table is
narrowed block by block. Elsewhere a product covers all columns, on a narrow copy of the table whose rows are padded
with zeros to a multiple of `_ALIGNED`. Without padding, a row of V = 30,522 logits in 16 bits would start at any
multiple of 4 bytes, where neither the library nor a kernel can load 16 bytes at once. Padded logits are 0 and stay 0.
The parameter itself is never padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..precision import accumulation_dtype
from .arguments import Arguments, BackwardArguments, Gradients, Results

__all__ = ["Chunk", "ChunkSizes", "backward", "chunk_sizes", "forward"]

# The softmax of the PyTorch backend needs copies in fp32 beside the chunk.
_CHUNK_BYTES = {"torch": 1 << 27, "triton": 1 << 28}
_ALIGNED = 64
_BLOCK = 1024
_TILE = 128


class Chunk(NamedTuple):
    """What a backend's `cross_entropy` gets between the products: one chunk of n rows.

    It writes losses and correct. With gradients it also replaces logits by their gradients and adds these to dbias.

    Attributes:
        logits: (n, columns); columns from V on are 0 and stay 0.
        labels: int64 (n,); a row with a negative label has no loss and no gradient.
        losses: (n,), in the accumulation dtype.
        correct: bool (n,).
        dbias: (V,), in the accumulation dtype, or None.
        vocabulary: V.
        with_gradients: whether gradients are computed; else what logits hold afterwards does not matter.
    """

    logits: Tensor
    labels: Tensor
    losses: Tensor
    correct: Tensor
    dbias: Tensor | None
    vocabulary: int
    with_gradients: bool


class ChunkSizes(NamedTuple):
    """`number` chunks of `rows` rows (the last may have fewer), each row of `columns` logits."""

    number: int
    rows: int
    columns: int


def chunk_sizes(backend: str, device: str, slots: int, vocabulary: int, itemsize: int) -> ChunkSizes:
    """The chunks of a call with `slots` rows; arithmetic only, so it also takes symbolic sizes."""
    blocked = _is_blocked(backend, device)
    columns = vocabulary if blocked else -(-vocabulary // _ALIGNED) * _ALIGNED
    most = max(1, _CHUNK_BYTES[backend] // (columns * itemsize))
    number = max(1, -(-slots // most))
    rows = -(-slots // number)
    if number > 1:
        # even chunks, of whole tiles of a product
        rows = min(most, -(-rows // _TILE) * _TILE)
        number = -(-slots // rows)
    return ChunkSizes(number, rows, columns)


def forward(cross_entropy: Callable[[Chunk], None], backend: str, arguments: Arguments) -> Results:
    """Compute the loss and the gradients of a call, one chunk after the other."""
    hidden, positions, labels, weight, bias, with_gradients = arguments
    wide = accumulation_dtype(hidden.dtype)
    x = hidden if positions is None else hidden.index_select(0, positions)
    slots, vocabulary = len(x), len(weight)
    number, size, columns = chunk_sizes(backend, x.device.type, slots, vocabulary, x.element_size())
    blocked = _is_blocked(backend, x.device.type)
    table = weight if blocked else _padded(weight, columns, x.dtype)
    offset = None if bias is None else _padded(bias, columns, x.dtype)
    labels = labels.contiguous()
    losses = torch.zeros(slots, dtype=wide, device=x.device)
    correct = torch.zeros(slots, dtype=torch.bool, device=x.device)
    buffer = x.new_empty((size, columns))
    dx = x.new_empty(x.shape) if with_gradients else x
    dweight = x.new_empty((0, x.shape[1]), dtype=wide)
    dbias = x.new_zeros(vocabulary, dtype=wide) if with_gradients and bias is not None else None
    for start in range(0, slots, max(1, size)):
        rows = slice(start, start + size)
        x_chunk = x[rows]
        logits = buffer[: len(x_chunk)]
        for c in _column_blocks(columns, blocked):
            narrow = table[c].to(x.dtype).t()
            if offset is None:
                torch.mm(x_chunk, narrow, out=logits[:, c])
            else:
                torch.addmm(offset[c], x_chunk, narrow, out=logits[:, c])
        cross_entropy(Chunk(logits, labels[rows], losses[rows], correct[rows], dbias, vocabulary, with_gradients))
        if not with_gradients:
            continue
        dlogits = logits
        # products of blocks add up in the accumulation dtype
        dx[rows] = sum(
            ((dlogits[:, c] @ table[c].to(x.dtype)).to(wide) for c in _column_blocks(columns, blocked)),
            start=torch.zeros((), dtype=wide, device=x.device),
        )
        if start + size < slots:
            product = _weight_gradient(dlogits, x_chunk, vocabulary, blocked)
            dweight = product if start == 0 else dweight.add_(product)
    scalars = (losses.sum(), (labels >= 0).sum(), correct.sum())
    if not with_gradients:
        return Results(*scalars, *(x.new_empty(0) for _ in range(4)))
    return Results(
        *scalars,
        dx=dx,
        dweight=dweight,
        dbias=x.new_empty(0, dtype=wide) if dbias is None else dbias,
        dlogits=buffer[: slots - (number - 1) * size],
    )


def backward(backend: str, arguments: BackwardArguments) -> Gradients:
    """Scale the gradients of the forward by that of the loss, and add the last chunk to the gradient of weight."""
    dloss, hidden, positions, weight, bias, dx, dweight, dbias, dlogits, needs_weight = arguments
    # a GPU rounds a scalar tensor to the dtype of what it multiplies, and 1 / count has more than 8 bits
    dhidden = (dx.to(dloss.dtype) * dloss).to(dx.dtype)
    if positions is not None:
        # unused slots may repeat a row; they add zeros
        dhidden = hidden.new_zeros(hidden.shape).index_add_(0, positions, dhidden)
    total = weight.new_empty(0)
    if needs_weight:
        last = slice(len(dx) - len(dlogits), len(dx))
        x = hidden[last] if positions is None else hidden.index_select(0, positions[last])
        total = _weight_gradient(dlogits, x, len(weight), _is_blocked(backend, hidden.device.type), dloss)
        if dweight.numel():
            total.addcmul_(dweight, dloss)
    return Gradients(
        dhidden=dhidden,
        dweight=total.to(weight.dtype),
        dbias=hidden.new_empty(0) if bias is None else (dbias * dloss).to(bias.dtype),
    )


def _weight_gradient(dlogits: Tensor, x: Tensor, vocabulary: int, blocked: bool, scale: Tensor | None = None) -> Tensor:
    """scale * dlogits^T x, a new (V, D) tensor in the accumulation dtype, in the best precision the library writes."""
    wide = accumulation_dtype(x.dtype)
    if blocked:
        total = x.new_empty((vocabulary, x.shape[1]), dtype=wide)
        for c in _column_blocks(vocabulary, blocked):
            block = total[c].copy_(dlogits[:, c].t() @ x)
            if scale is not None:
                block.mul_(scale)
        return total
    if x.device.type == "cuda" and x.element_size() == 2:
        total = torch.mm(dlogits.t(), x, out_dtype=torch.float32)[:vocabulary]
    else:
        total = (dlogits.t().to(wide) @ x.to(wide))[:vocabulary]
    return total if scale is None else total.mul_(scale)


def _is_blocked(backend: str, device: str) -> bool:
    return backend == "torch" and device == "cpu"


def _column_blocks(columns: int, blocked: bool) -> Iterator[slice]:
    step = _BLOCK if blocked else columns
    for start in range(0, columns, step):
        yield slice(start, min(start + step, columns))


def _padded(x: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """x in `dtype` with zeros appended to its first dimension; x itself when nothing changes."""
    if len(x) == length:
        return x.to(dtype).contiguous()
    longer = x.new_zeros((length, *x.shape[1:]), dtype=dtype)
    longer[: len(x)] = x
    return longer
