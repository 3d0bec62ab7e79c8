"""Documents of similar lengths in groups, so that batched products serve them together.

Documents come sorted by length (`Documents.order`). A group takes the next ones as long as none needs more than an
eighth of the group's length as padding, and the group stays small enough for the cache. Padded tokens are rows of
zeros, which add nothing to a product. The boundaries and factors are read on the host: free on a CPU, a wait for the
device on a GPU.

Shapes: a group has n documents padded to s tokens; a tensor (T, H, K) becomes (n * H, s, K).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import PairArguments

__all__ = ["Group", "ScoreBlock", "blocks", "groups"]

_GATHERED = 1 << 20  # elements of a group's tensor, about
_CACHED = 1 << 17  # elements of a block of scores that is worked on at a time
_FEWEST_ROWS = 64  # of a block that is cut to save columns


class Group(NamedTuple):
    """n documents padded to s tokens.

    Attributes:
        rows: their rows in the batch, a slice or int64 (n * s,); a padded token repeats some row.
        length: s.
        documents: their indices.
        real: True at real tokens, bool (n, s); None when nothing is padded.
    """

    rows: slice | Tensor
    length: int
    documents: list[int]
    real: Tensor | None

    def take(self, x: Tensor, out: Tensor) -> None:
        """Write the rows of x (T, H, K) to out (n * H, s, K), and 0 at padded tokens."""
        count = len(self.documents)
        taken = x[self.rows].unflatten(0, (count, self.length))
        if self.real is not None:
            # other documents' values must not reach this one, not even as 0 * NaN
            taken = taken.masked_fill_(~self.real[:, :, None, None], 0.0)
        out.unflatten(0, (count, -1)).copy_(taken.transpose(1, 2))

    def give(self, target: Tensor, x: Tensor) -> None:
        """Write x (n * H, s, K) to the group's rows of target (T, H, K)."""
        by_token = x.unflatten(0, (len(self.documents), -1)).transpose(1, 2)  # (n, s, H, K)
        if self.real is None:
            target[self.rows] = by_token.flatten(0, 1).to(target.dtype)
        else:
            assert isinstance(self.rows, Tensor)
            target[self.rows[self.real.flatten()]] = by_token[self.real].to(target.dtype)


def groups(arguments: PairArguments, elements: int) -> Iterator[Group]:
    """The documents that have a token and a factor, in groups; a token takes `elements` elements."""
    offsets, factors = arguments.cu_seqlens.tolist(), arguments.factors.tolist()
    lengths = [end - start for start, end in pairwise(offsets)]
    ordered = [index for index in arguments.order.tolist() if lengths[index] > 0 and factors[index] != 0.0]
    device = arguments.student_q.device
    most = max(1, _GATHERED // elements)
    while ordered:
        length = lengths[ordered[0]]
        count = 1
        while count < len(ordered) and (count + 1) * length <= most and 8 * lengths[ordered[count]] >= 7 * length:
            count += 1
        some, ordered = ordered[:count], ordered[count:]
        if count == 1:
            yield Group(slice(offsets[some[0]], offsets[some[0]] + length), length, some, None)
            continue
        position = torch.arange(length, device=device)
        starts, sizes = (
            torch.tensor([values[index] for index in some], device=device)[:, None] for values in (offsets, lengths)
        )
        rows = starts + position
        if lengths[some[-1]] == length:
            yield Group(rows.flatten(), length, some, None)
        else:
            yield Group(rows.clamp(max=offsets[-1] - 1).flatten(), length, some, position < sizes)


class ScoreBlock(NamedTuple):
    """A part of the n * H matrices of scores, some of their rows, and the columns that any of these rows sees.

    Attributes:
        part, rows, columns: slices of the three dimensions.
        unseen: bool (rows, columns): pairs that are not seen; None if all are.
    """

    part: slice
    rows: slice
    columns: slice
    unseen: Tensor | None


def blocks(arguments: PairArguments, batch: int, length: int) -> Iterator[ScoreBlock]:
    """Cut `batch` matrices of scores, (batch, length, length), into blocks that stay in cache."""
    causal, window = arguments.causal, arguments.window
    banded = causal or window >= 0
    rows = min(length, max(_FEWEST_ROWS, _CACHED // length))
    if window >= 0:
        rows = min(rows, max(_FEWEST_ROWS, window))
    elif causal:
        rows = min(rows, max(_FEWEST_ROWS, -(-length // 4)))
    for start in range(0, length, rows):
        end = min(start + rows, length)
        first = 0 if window < 0 else max(0, start - window)
        last = end if causal else length if window < 0 else min(length, end + window)
        unseen = None
        if banded:
            ahead = torch.arange(first, last, device=arguments.student_q.device)
            ahead = ahead - torch.arange(start, end, device=ahead.device)[:, None]  # j - i
            unseen = ahead > 0 if causal else torch.zeros_like(ahead, dtype=torch.bool)
            if window >= 0:
                unseen = unseen | (ahead.abs() > window)
        size = max(1, _CACHED // ((end - start) * (last - first)))
        for part in range(0, batch, size):
            yield ScoreBlock(slice(part, min(part + size, batch)), slice(start, end), slice(first, last), unseen)
