"""Attention by batched products: documents of similar length share one call, with next to no padding.

Documents come sorted by length (`Documents.order`). A group takes the next ones as long as its padding stays within its
documents' shares of 5% of the batch's work, so the whole batch wastes 5% at most. A group is as wide as its longest
document. It is also cut where a block of scores would have more than about `Limits.scores` elements, which stay near
the cache; a long document is cut by rows, and a block of a causal or local one has only the columns that its rows see.
Memory is O(T): the backward forms P again from q and k, one block at a time. `unmask tune` may change these
numbers, and how much is worked on at a time.

Within a group or a block of rows, a part of the documents and heads is worked on at a time, in buffers that stay in
cache and are used again. Fresh memory of that size would cost more than the softmax: the pages are cleared in every
call.

The mask of dropout is drawn once, a group at a time, and saved for the backward as bits if the documents are not too
long (`choice.saves_keep`).

These are plain products, not `scaled_dot_product_attention`, whose bf16 kernel for CPUs is slower even where nothing is
padded (docs/measured.md, all-512). Operands are made contiguous first, in one copy for a whole group; otherwise each
product would copy its own.

Shapes: a group has n documents padded to s tokens, so q, k, v and their gradients are (n * H, s, K). S, P, dP and dS of
m of the n * H matrices, and a block of their rows, are (m, rows, columns).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from .. import philox
from .arguments import Arguments, BackwardArguments, is_banded
from .tunables import CACHED, PADDING, SCORES, shape

__all__ = ["Limits", "backward", "forward"]

_Call: TypeAlias = Arguments | BackwardArguments


class Limits(NamedTuple):
    """How groups and blocks are cut.

    Attributes:
        scores: elements of a block of scores, about.
        fewest_rows: of a block that is cut to save columns.
        cached: of the elements of a block, worked on at a time on a CPU, or those of one matrix.
        padding: what padding may add, in percent of the work, the sum of s^2 over documents.
    """

    scores: int = SCORES.default
    fewest_rows: int = 64
    cached: int = CACHED.default
    padding: int = PADDING.default

    @classmethod
    def of(cls, arguments: _Call) -> Limits:
        """The limits in effect for a call."""
        here = shape(
            arguments.qkv.shape[3], arguments.qkv.dtype, dropout=arguments.p > 0.0, banded=is_banded(arguments)
        )
        return cls(scores=SCORES.value(here), cached=CACHED.value(here), padding=PADDING.value(here))


class _Group(NamedTuple):
    """n documents padded to s tokens.

    Attributes:
        rows: their rows in the batch, a slice or int64 (n * s,); a padded token repeats some row.
        length: s.
        documents: their indices, int64 (n,).
        spans: (first row in the batch, length) of each.
        real: True at real tokens, bool (n, s); None when nothing is padded.
    """

    rows: slice | Tensor
    length: int
    documents: Tensor
    spans: list[tuple[int, int]]
    real: Tensor | None


class _Block(NamedTuple):
    """Rows of a matrix of scores, and the columns that any of them sees."""

    rows: slice
    columns: slice


class _Room:
    """Buffers for blocks of scores, which grow with the largest one."""

    def __init__(self, like: Tensor) -> None:
        self.on_cpu = like.device.type == "cpu"
        self._like, self._buffers = like, [like.new_empty(0)] * 4

    def take(self, *shape: int) -> list[Tensor]:
        """Four buffers of this shape. What they hold is lost with the next call."""
        size = math.prod(shape)
        if len(self._buffers[0]) < size:
            self._buffers = [self._like.new_empty(size) for _ in self._buffers]
        return [buffer[:size].view(shape) for buffer in self._buffers]


def forward(arguments: Arguments, keep: Tensor, limits: Limits | None = None) -> Tensor:
    """Returns out (T, H, K). Fills `keep` of `arguments.Results` with the mask of dropout unless it is empty."""
    limits = limits or Limits.of(arguments)
    qkv = arguments.qkv
    heads, p = qkv.shape[2], arguments.p
    out = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
    room = _Room(qkv)
    for group in _groups(arguments.cu_seqlens, arguments.order, heads, limits):
        q, k, v = _by_head(qkv, group)
        padding = _padding_bias(group, heads, q)
        values = torch.empty_like(q)
        for block in _blocks(group.length, len(q), arguments, limits):
            rows, columns = block
            kept = _draw(group, heads, block, arguments)
            if kept is not None and len(keep):
                _save(kept, group, block, keep)
            for some, buffers in _parts(block, len(q), room, limits):
                P = _probabilities(q[some], k[some], _of(padding, some), block, arguments, buffers)
                if kept is not None:
                    P *= _factors(kept, some, block, buffers[3])
                values[some, rows] = torch.bmm(P, v[some, columns])
        _scatter(out, group, values if p == 0.0 else values.div_(1.0 - p))
    return out


def backward(arguments: BackwardArguments, limits: Limits | None = None) -> Tensor:
    """Returns dqkv (T, 3, H, K)."""
    limits = limits or Limits.of(arguments)
    qkv = arguments.qkv
    heads, p = qkv.shape[2], arguments.p
    dqkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    room = _Room(qkv)
    for group in _groups(arguments.cu_seqlens, arguments.order, heads, limits):
        q, k, v = _by_head(qkv, group)
        (do,) = _by_head(arguments.dout.unsqueeze(1), group)
        padding = _padding_bias(group, heads, q)
        dq = torch.empty_like(q)
        blocks = list(_blocks(group.length, len(q), arguments, limits))
        # dk and dv of several blocks are sums of products, added in fp32
        wide = q.dtype if len(blocks) == 1 else torch.promote_types(q.dtype, torch.float32)
        dk, dv = (torch.zeros_like(k, dtype=wide) for _ in range(2))
        for block in blocks:
            rows, columns = block
            kept = _saved(group, heads, block, arguments.keep) if len(arguments.keep) else None
            if kept is None:
                kept = _draw(group, heads, block, arguments)
            for some, buffers in _parts(block, len(q), room, limits):
                P = _probabilities(q[some], k[some], _of(padding, some), block, arguments, buffers)
                dP, _, P_kept, dS = buffers
                torch.bmm(do[some, rows], v[some, columns].mT, out=dP)
                if kept is None:
                    P_kept = P
                else:
                    factors = _factors(kept, some, block, dS)
                    torch.mul(P, factors, out=P_kept)
                    dP *= factors
                dv[some, columns] += torch.bmm(P_kept.mT, do[some, rows])
                torch.ops.aten._softmax_backward_data.out(dP, P, -1, q.dtype, grad_input=dS)
                dq[some, rows] = torch.bmm(dS, k[some, columns])
                dk[some, columns] += torch.bmm(dS.mT, q[some, rows])
        # the factor 1 / (1 - p) of dropout is linear all the way, so it is applied to the results, rounded once
        factor = arguments.scale / (1.0 - p)
        for part, gradient in enumerate((dq.mul_(factor), dk.mul_(factor), dv if p == 0.0 else dv.div_(1.0 - p))):
            _scatter(dqkv[:, part], group, gradient.to(qkv.dtype))
    return dqkv


def _groups(cu_seqlens: Tensor, order: Tensor, heads: int, limits: Limits) -> Iterator[_Group]:
    """The documents of at least one token, in groups."""
    offsets = cu_seqlens.tolist()
    lengths = [end - start for start, end in pairwise(offsets)]
    for some in _members([index for index in order.tolist() if lengths[index] > 0], lengths, heads, limits):
        length, documents = lengths[some[0]], torch.tensor(some, device=order.device)
        spans = [(offsets[index], lengths[index]) for index in some]
        if len(some) == 1:
            yield _Group(slice(offsets[some[0]], offsets[some[0]] + length), length, documents, spans, None)
            continue
        position = torch.arange(length, device=order.device)
        rows = cu_seqlens[documents, None].long() + position
        if lengths[some[-1]] == length:
            yield _Group(rows.flatten(), length, documents, spans, None)
            continue
        real = position < cu_seqlens.diff()[documents, None]
        yield _Group(rows.clamp(max=offsets[-1] - 1).flatten(), length, documents, spans, real)


def _members(ordered: list[int], lengths: list[int], heads: int, limits: Limits) -> Iterator[list[int]]:
    """Cut documents, longest first, into groups whose padding is within their documents' shares of the waste."""
    share = limits.padding / 100 * sum(length * length for length in lengths) / max(1, len(ordered))
    some: list[int] = []
    padding = 0.0
    for index in ordered:
        widest = lengths[some[0]] if some else lengths[index]
        more = widest * widest - lengths[index] ** 2
        full = heads * widest * widest * (len(some) + 1) > limits.scores
        if some and (full or padding + more > share * (len(some) + 1)):
            yield some
            some, padding, more = [], 0.0, 0
        some.append(index)
        padding += more
    if some:
        yield some


def _blocks(length: int, batch: int, arguments: _Call, limits: Limits) -> Iterator[_Block]:
    """Cut the matrices of scores of `batch` documents and heads, (batch, length, length), by rows."""
    causal, window = arguments.causal, arguments.window
    rows = max(1, 2 * limits.scores // (batch * length))
    if window >= 0:
        rows = min(rows, max(limits.fewest_rows, window))
    elif causal:
        rows = min(rows, max(limits.fewest_rows, -(-length // 4)))
    for start in range(0, length, rows):
        end = min(start + rows, length)
        first = 0 if window < 0 else max(0, start - window)
        last = end if causal else length if window < 0 else min(length, end + window)
        yield _Block(slice(start, end), slice(first, last))


def _parts(block: _Block, batch: int, room: _Room, limits: Limits) -> Iterator[tuple[slice, list[Tensor]]]:
    """Cut the `batch` matrices of a block into slices that stay in cache, each with four buffers of its shape."""
    rows, columns = (each.stop - each.start for each in block)
    size = max(1, limits.cached // (rows * columns)) if room.on_cpu else batch
    for start in range(0, batch, size):
        end = min(start + size, batch)
        yield slice(start, end), room.take(end - start, rows, columns)


def _by_head(x: Tensor, group: _Group) -> Tensor:
    """(T, parts, H, K) -> (parts, n * H, s, K), contiguous; 0 at padded tokens."""
    taken = x[group.rows].unflatten(0, (-1, group.length))
    if group.real is not None:
        # other documents' values must not reach this one, not even as 0 * NaN
        taken = taken.masked_fill_(~group.real[:, :, None, None, None], 0.0)
    return taken.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2)


def _scatter(target: Tensor, group: _Group, x: Tensor) -> None:
    """Write (n * H, s, K) to the group's rows of target (T, H, K)."""
    by_token = x.unflatten(0, (-1, target.shape[1])).transpose(1, 2)  # (n, s, H, K)
    if group.real is None:
        target[group.rows] = by_token.flatten(0, 1)
    else:
        assert isinstance(group.rows, Tensor)
        target[group.rows[group.real.flatten()]] = by_token[group.real]


def _padding_bias(group: _Group, heads: int, q: Tensor) -> Tensor | None:
    """What hides padded columns, (n * H, 1, s): the lowest number there, 0 elsewhere; None when nothing is padded."""
    if group.real is None:
        return None
    # not -inf: the row of a padded token may see nothing else, through a window, and must not become NaN
    lowest = torch.finfo(q.dtype).min
    bias = torch.zeros(group.real.shape, dtype=q.dtype, device=q.device).masked_fill_(~group.real, lowest)
    return bias.repeat_interleave(heads, 0).unsqueeze(1)


def _of(padding: Tensor | None, some: slice) -> Tensor | None:
    return None if padding is None else padding[some]


def _probabilities(
    q: Tensor, k: Tensor, padding: Tensor | None, block: _Block, arguments: _Call, buffers: list[Tensor]
) -> Tensor:
    """P = softmax(scale * q k^T) of a block, in the second of the buffers; S is in the first."""
    rows, columns = block
    S, P, *_ = buffers
    before = S if padding is None else padding[..., columns].expand(S.shape)
    # with beta = 0 what S held is not read
    beta = 0.0 if padding is None else 1.0
    torch.baddbmm(before, q[:, rows], k[:, columns].mT, beta=beta, alpha=arguments.scale, out=S)
    if is_banded(arguments):
        everything = torch.ones(S.shape[1:], dtype=torch.bool, device=q.device)
        ahead = rows.start - columns.start
        unseen = everything.triu(ahead + 1 + (0 if arguments.causal else arguments.window))
        if arguments.window >= 0:
            unseen |= everything.tril(ahead - 1 - arguments.window)
        S.masked_fill_(unseen, float("-inf"))
    return torch.softmax(S, -1, out=P)


def _draw(group: _Group, heads: int, block: _Block, arguments: _Call) -> Tensor | None:
    """What dropout keeps of the block's rows and all columns up to its last, bool (n, H, rows, columns), or None."""
    if arguments.key is None or arguments.p == 0.0:
        return None
    rows, columns = block
    keys = arguments.keys[group.documents]
    return philox.keep_scores(arguments.key, keys, heads, range(rows.start, rows.stop), columns.stop, arguments.p)


def _save(kept: Tensor, group: _Group, block: _Block, keep: Tensor) -> None:
    """Write the bits of a block to the rows of its documents in `keep`."""
    bits = philox.packed(kept)  # (n, H, rows, bytes)
    for document, (start, length) in enumerate(group.spans):
        rows, size = _inside(block, length)
        keep[:, start + rows.start : start + rows.stop, :size] = bits[document, :, : rows.stop - rows.start, :size]


def _saved(group: _Group, heads: int, block: _Block, keep: Tensor) -> Tensor:
    """Read what `_save` wrote; False at padded tokens."""
    count = block.rows.stop - block.rows.start
    bits = keep.new_zeros((len(group.spans), heads, count, -(-block.columns.stop // 8)))
    for document, (start, length) in enumerate(group.spans):
        rows, size = _inside(block, length)
        bits[document, :, : rows.stop - rows.start, :size] = keep[:, start + rows.start : start + rows.stop, :size]
    return philox.unpacked(bits, block.columns.stop)


def _inside(block: _Block, length: int) -> tuple[slice, int]:
    """The rows of a block that a document of this length has, and the bytes of its columns up to the block's last."""
    first = min(block.rows.start, length)
    return slice(first, max(first, min(block.rows.stop, length))), -(-min(block.columns.stop, length) // 8)


def _factors(kept: Tensor, some: slice, block: _Block, buffer: Tensor) -> Tensor:
    """1 where dropout keeps an element of P and 0 elsewhere, in the buffer."""
    # a copy from uint8 and a product of two tensors of one dtype need no temporary
    return buffer.copy_(kept.flatten(0, 1)[some, :, block.columns].view(torch.uint8))
