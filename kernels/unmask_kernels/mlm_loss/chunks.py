"""The loop over chunks of logits that the backends of mlm_loss share: products by the library, rows by the backend.

    forward    logits = x W^T + b     dlogits in place of logits     dx = dlogits W     dW of all chunks but the last
    backward   dW = dloss * (dlogits^T x of the last chunk + the others)

x (M, D) are the masked rows, W (V, D) and b (V,) the projection. One buffer holds a chunk of logits, at most
`_CHUNK_BYTES`, cut so that chunks are even. The last one stays in it for the backward, where its part of dW is
written once, already scaled by the gradient of the loss: dW is never kept next to its scaled copy.

On a CPU the products go over `_BLOCK` columns at a time: operands stay in cache, and a block of the fp32 table is
narrowed where it is used, not as a whole. On a GPU (and for a Triton backend) they are one product each, on a narrow
copy of the table whose rows are padded with zeros to a multiple of `_ALIGNED`: a row of V = 30,522 logits in 16 bits
would start at any multiple of 4 bytes, where neither the library nor a kernel can load 16 at once. Padded logits are
0 and stay 0. The parameter itself is never padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..precision import accumulation_dtype

__all__ = ["Cut", "RowPass", "backward", "cut", "forward"]

# With the PyTorch backend, softmax needs copies in fp32 beside the chunk.
_CHUNK_BYTES = {"torch": 1 << 27, "triton": 1 << 28}
_ALIGNED = 64
_BLOCK = 1024
_TILE = 128


class Cut(NamedTuple):
    """How M slots are cut: `number` chunks of `rows` logits each (the last may be shorter), `columns` wide."""

    number: int
    rows: int
    columns: int


class RowPass(Protocol):
    """What a backend does between the products, on one chunk."""

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        losses: Tensor,
        hits: Tensor,
        dbias: Tensor | None,
        *,
        vocabulary: int,
        with_gradients: bool,
    ) -> None:
        """Write losses and hits (n,), add to dbias (V,), replace logits (n, columns) by their gradients.

        Args:
            logits: columns from V on are 0 and must be 0 afterwards. Without gradients their contents may stay.
            labels: int64 (n,); a negative one means that the row has no loss and no gradient.
        """


def cut(backend: str, device: str, slots: int, vocabulary: int, itemsize: int) -> Cut:
    """The chunks of a call; arithmetic only, so that it also serves symbolic sizes."""
    blocked = _is_blocked(backend, device)
    columns = vocabulary if blocked else -(-vocabulary // _ALIGNED) * _ALIGNED
    most = max(1, _CHUNK_BYTES[backend] // (columns * itemsize))
    number = max(1, -(-slots // most))
    rows = -(-slots // number)
    if number > 1:
        # even chunks, of whole tiles of a product
        rows = min(most, -(-rows // _TILE) * _TILE)
        number = -(-slots // rows)
    return Cut(number, rows, columns)


def forward(
    row_pass: RowPass,
    backend: str,
    hidden: Tensor,
    positions: Tensor | None,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    with_gradients: bool,
) -> tuple[Tensor, ...]:
    """loss, count, correct; with gradients dx (M, D), dweight of all chunks but the last, dbias, the last dlogits."""
    wide = accumulation_dtype(hidden.dtype)
    x = hidden if positions is None else hidden.index_select(0, positions)
    slots, vocabulary = len(x), len(weight)
    number, rows, columns = cut(backend, x.device.type, slots, vocabulary, x.element_size())
    blocked = _is_blocked(backend, x.device.type)
    table = weight if blocked else _padded(weight, columns, x.dtype)
    offset = None if bias is None else _padded(bias, columns, x.dtype)
    labels = labels.contiguous()
    losses = torch.zeros(slots, dtype=wide, device=x.device)
    hits = torch.zeros(slots, dtype=torch.bool, device=x.device)
    buffer = x.new_empty((rows, columns))
    dx = x.new_empty(x.shape) if with_gradients else x
    dweight = x.new_empty((0, x.shape[1]), dtype=wide)
    dbias = x.new_zeros(vocabulary, dtype=wide) if with_gradients and bias is not None else None
    for start in range(0, slots, max(1, rows)):
        chunk = slice(start, start + rows)
        some = x[chunk]
        logits = buffer[: len(some)]
        for c in _columns(columns, blocked):
            narrow = table[c].to(x.dtype).t()
            if offset is None:
                torch.mm(some, narrow, out=logits[:, c])
            else:
                torch.addmm(offset[c], some, narrow, out=logits[:, c])
        row_pass(
            logits,
            labels[chunk],
            losses[chunk],
            hits[chunk],
            dbias,
            vocabulary=vocabulary,
            with_gradients=with_gradients,
        )
        if not with_gradients:
            continue
        # partial products of blocks add up in the accumulation dtype
        dx[chunk] = sum(
            ((logits[:, c] @ table[c].to(x.dtype)).to(wide) for c in _columns(columns, blocked)),
            start=torch.zeros((), dtype=wide, device=x.device),
        )
        if start + rows < slots:
            product = _outer(logits, some, vocabulary, blocked)
            dweight = product if start == 0 else dweight.add_(product)
    scalars = (losses.sum(), (labels >= 0).sum(), hits.sum())
    if not with_gradients:
        return (*scalars, *(x.new_empty(0) for _ in range(4)))
    return (
        *scalars,
        dx,
        dweight,
        x.new_empty(0, dtype=wide) if dbias is None else dbias,
        buffer[: slots - (number - 1) * rows],
    )


def backward(
    backend: str,
    dloss: Tensor,
    hidden: Tensor,
    positions: Tensor | None,
    dweight: Tensor,
    dlogits: Tensor,
    vocabulary: int,
) -> Tensor:
    """dweight (V, D) in the accumulation dtype, from what `forward` returned and the gradient of the loss."""
    blocked = _is_blocked(backend, hidden.device.type)
    slots = len(hidden) if positions is None else len(positions)
    last = slice(slots - len(dlogits), slots)
    x = hidden[last] if positions is None else hidden.index_select(0, positions[last])
    total = _outer(dlogits, x, vocabulary, blocked, dloss)
    return total.addcmul_(dweight, dloss) if dweight.numel() else total


def _is_blocked(backend: str, device: str) -> bool:
    return backend == "torch" and device == "cpu"


def _columns(columns: int, blocked: bool) -> Iterator[slice]:
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


def _outer(dlogits: Tensor, x: Tensor, vocabulary: int, blocked: bool, scale: Tensor | None = None) -> Tensor:
    """scale * dlogits^T x, a new (V, D) tensor in the accumulation dtype, in the best precision the library writes."""
    wide = accumulation_dtype(x.dtype)
    if blocked:
        total = x.new_empty((vocabulary, x.shape[1]), dtype=wide)
        for c in _columns(vocabulary, blocked):
            block = total[c].copy_(dlogits[:, c].t() @ x)
            if scale is not None:
                block.mul_(scale)
        return total
    if x.device.type == "cuda" and x.element_size() == 2:
        total = torch.mm(dlogits.t(), x, out_dtype=torch.float32)[:vocabulary]
    else:
        total = (dlogits.t().to(wide) @ x.to(wide))[:vocabulary]
    return total if scale is None else total.mul_(scale)
