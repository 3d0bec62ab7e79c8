"""Attention by batched products: documents of similar length share one call, with next to no padding.

Documents come sorted by length (`Documents.order`). A group takes the next ones as long as its padding stays within its
documents' shares of 5% of the batch's work, so the whole batch wastes 5% at most. A group is as wide as its longest
document. It is also cut where a block of scores would have more than about `Limits.scores` elements, which stay near
the cache; a long document is cut by rows, and a block of a causal or local one has only the columns that its rows see.
Memory is O(T): the backward forms P again from q and k, one block at a time.

These are plain products, not `scaled_dot_product_attention`, whose bf16 kernel for CPUs is slower even where nothing is
padded (docs/measured.md, all-512). Operands are made contiguous first, in one copy for a whole group; otherwise each
product would copy its own.

Shapes: a group has n documents padded to s tokens, so q, k, v and their gradients are (n * H, s, K), and S, P, dP and
dS of a block are (n * H, rows, columns).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from .. import philox
from .arguments import Arguments, BackwardArguments, is_banded

__all__ = ["Limits", "backward", "forward"]

_Call: TypeAlias = Arguments | BackwardArguments

_WASTE = 0.05  # of the work, the sum of s^2 over documents


class Limits(NamedTuple):
    """How groups and blocks are cut.

    Attributes:
        scores: elements of a block of scores, about.
        fewest_rows: of a block that is cut to save columns.
    """

    scores: int = 1 << 21
    fewest_rows: int = 64


_LIMITS = Limits()


class _Group(NamedTuple):
    """n documents padded to s tokens.

    Attributes:
        rows: their rows in the batch, a slice or int64 (n * s,); a padded token repeats some row.
        length: s.
        documents: their indices, int64 (n,).
        real: True at real tokens, bool (n, s); None when nothing is padded.
    """

    rows: slice | Tensor
    length: int
    documents: Tensor
    real: Tensor | None


class _Block(NamedTuple):
    """Rows of a matrix of scores, and the columns that any of them sees."""

    rows: slice
    columns: slice


def forward(arguments: Arguments, limits: Limits = _LIMITS) -> Tensor:
    """Returns out (T, H, K)."""
    qkv = arguments.qkv
    heads, p = qkv.shape[2], arguments.p
    out = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
    for group in _groups(arguments.cu_seqlens, arguments.order, heads, limits):
        q, k, v = _by_head(qkv, group)
        padding = _padding_bias(group, heads, q)
        values = torch.empty_like(q)
        for block in _blocks(group.length, len(q), arguments, limits):
            P = _probabilities(q, k, padding, block, arguments)
            keep = _keep(group, heads, block, arguments)
            if keep is not None:
                P *= keep
            values[:, block.rows] = torch.bmm(P, v[:, block.columns])
        _scatter(out, group, values if p == 0.0 else values.div_(1.0 - p))
    return out


def backward(arguments: BackwardArguments, limits: Limits = _LIMITS) -> Tensor:
    """Returns dqkv (T, 3, H, K)."""
    qkv = arguments.qkv
    heads, p = qkv.shape[2], arguments.p
    dqkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
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
            P = _probabilities(q, k, padding, block, arguments)
            dP = torch.bmm(do[:, rows], v[:, columns].mT)
            keep = _keep(group, heads, block, arguments)
            P_kept = P
            if keep is not None:
                P_kept = P * keep
                dP *= keep
            dv[:, columns] += torch.bmm(P_kept.mT, do[:, rows])
            dS = torch.ops.aten._softmax_backward_data(dP, P, -1, q.dtype)
            dq[:, rows] = torch.bmm(dS, k[:, columns])
            dk[:, columns] += torch.bmm(dS.mT, q[:, rows])
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
        if len(some) == 1:
            yield _Group(slice(offsets[some[0]], offsets[some[0]] + length), length, documents, None)
            continue
        position = torch.arange(length, device=order.device)
        rows = cu_seqlens[documents, None].long() + position
        if lengths[some[-1]] == length:
            yield _Group(rows.flatten(), length, documents, None)
            continue
        real = position < cu_seqlens.diff()[documents, None]
        yield _Group(rows.clamp(max=offsets[-1] - 1).flatten(), length, documents, real)


def _members(ordered: list[int], lengths: list[int], heads: int, limits: Limits) -> Iterator[list[int]]:
    """Cut documents, longest first, into groups whose padding is within their documents' shares of the waste."""
    share = _WASTE * sum(length * length for length in lengths) / max(1, len(ordered))
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


def _probabilities(q: Tensor, k: Tensor, padding: Tensor | None, block: _Block, arguments: _Call) -> Tensor:
    """P = softmax(scale * q k^T) of a block."""
    rows, columns = block
    shape = (len(q), rows.stop - rows.start, columns.stop - columns.start)
    if padding is None:
        nothing = q.new_empty(1, 1, 1).expand(shape)
        S = torch.baddbmm(nothing, q[:, rows], k[:, columns].mT, beta=0.0, alpha=arguments.scale)
    else:
        S = torch.baddbmm(padding[..., columns].expand(shape), q[:, rows], k[:, columns].mT, alpha=arguments.scale)
    if is_banded(arguments):
        everything = torch.ones(shape[1:], dtype=torch.bool, device=q.device)
        ahead = rows.start - columns.start
        unseen = everything.triu(ahead + 1 + (0 if arguments.causal else arguments.window))
        if arguments.window >= 0:
            unseen |= everything.tril(ahead - 1 - arguments.window)
        S = S.masked_fill_(unseen, float("-inf"))
    return S.softmax(-1)


def _keep(group: _Group, heads: int, block: _Block, arguments: _Call) -> Tensor | None:
    """1 where dropout keeps an element of P and 0 elsewhere, uint8 like P; None without dropout."""
    if arguments.key is None or arguments.p == 0.0:
        return None
    rows, columns = block
    keys, some = arguments.keys[group.documents], range(rows.start, rows.stop)
    keep = philox.keep_scores(arguments.key, keys, heads, some, columns.stop, arguments.p)[..., columns]
    # PyTorch multiplies by uint8 four times faster than by bool
    return keep.flatten(0, 1).view(torch.uint8)
