"""Documents: the packed intra-document mask, built once per micro-batch and shared by every layer.

A micro-batch is one row of T tokens that holds S whole documents one after the other:

    cu_seqlens  0        5     9  9               T      document s owns tokens cu_seqlens[s] : cu_seqlens[s + 1]
                [ doc 0 ][doc1][][    doc 3      ]       documents may be empty; unused slots repeat T

Attention stays inside a document (Zhao et al. 2024, arXiv:2402.13991, intra-document masking; here in both
directions), and positions restart in each. Every list is made here, before the step, so that a step never waits for the
device.

`tiles` is the work list of attention kernels. It lists documents, and their tiles of TILE_ROWS rows, from the longest
document to the shortest, that is, by cost. Its head counts the documents longer than each bound, so a kernel finds the
documents of a range of lengths although their number is known on the device only:

    row 0 : 8              (documents longer than BOUNDS[i], tiles of these documents, 0, 0)
    row 8 : 8 + S          (document, 0, its first token, its length)               by document
    row 8 + S : end        (document, first row of the tile, first token, length)   T // TILE_ROWS + S slots; 0 beyond
                                                                                    the last tile
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from . import checks, philox

__all__ = ["BOUNDS", "TILES_HEAD", "TILE_ROWS", "Documents"]

TILE_ROWS = 128
TILES_HEAD = 8
BOUNDS = (0, 64, 128, 256, 512, (1 << 31) - 1)
"""Lengths at which the kernels for a document change; no document is longer than the last one."""


# comparing tensors gives tensors: two Documents are equal when they are the same object
@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Documents:
    """The boundaries of the documents of one packed row, and the lists that follow from them.

    Attributes:
        cu_seqlens: offsets of the documents, int32 (S + 1,), from 0 to T.
        keys: keys of the documents in the random stream, int64 (S,).
        tokens: T, a plain int.
        max_seqlen: maximum sequence length: a static bound on the length of a document, a plain int.
        positions: position of each token in its document, int64 (T,).
        document_ids: index of each token's document, int64 (T,).
        row_keys: key of each token, for dropout on rows, int64 (T,).
        order: documents from the longest to the shortest, ties by index, int32 (S,).
        tiles: work list of attention kernels, int32 (TILES_HEAD + S + T // TILE_ROWS + S, 4), as drawn above.
    """

    cu_seqlens: Tensor
    keys: Tensor
    tokens: int
    max_seqlen: int
    positions: Tensor
    document_ids: Tensor
    row_keys: Tensor
    order: Tensor
    tiles: Tensor

    def __repr__(self) -> str:
        if not isinstance(self.keys, Tensor):
            return "Documents(of what stands for its tensors)"
        slots, device = len(self.keys), self.keys.device
        return f"Documents({slots} slots, {self.tokens} tokens, none longer than {self.max_seqlen}, on {device})"

    @classmethod
    def build(
        cls,
        cu_seqlens: Tensor,
        keys: Tensor | None = None,
        *,
        tokens: int | None = None,
        max_seqlen: int | None = None,
    ) -> Documents:
        """Check the boundaries and make the lists.

        Args:
            cu_seqlens: int32 (S + 1,), not decreasing, starting at 0 and ending at T.
            keys: int64 (S,), the document keys; needed for dropout only. Default: the index of each document.
            tokens: T. Default: the last offset, which must then be on the CPU.
            max_seqlen: bound on the length of a document. Default: the longest one, read from a CPU tensor.
        Raises:
            TypeError, ValueError: a wrong dtype or shape. Wrong contents too, on a CPU, and with UNMASK_DEBUG=1 on a
                GPU; otherwise contents on a GPU are not read, because the host would have to wait for them.
        """
        for name, value in (("cu_seqlens", cu_seqlens), ("keys", keys)):
            if value is not None and not isinstance(value, Tensor):
                kind = "int32" if name == "cu_seqlens" else "int64"
                raise TypeError(
                    f"documents: {name} must be an {kind} tensor, got {type(value).__name__}; "
                    f"use torch.tensor({name}, dtype=torch.{kind})"
                )
        if cu_seqlens.dtype != torch.int32:
            raise TypeError(f"documents: cu_seqlens must be int32, got {cu_seqlens.dtype}; use cu_seqlens.int()")
        if cu_seqlens.dim() != 1 or len(cu_seqlens) < 2:
            raise ValueError(
                f"documents: cu_seqlens must have shape (S + 1,) with S >= 1, got {tuple(cu_seqlens.shape)}"
            )
        on_host = cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling()
        if not on_host and (tokens is None or max_seqlen is None):
            raise ValueError(
                "documents: tokens and max_seqlen must be given for cu_seqlens on a GPU and under torch.compile, "
                "since reading them would stall the device or cut the graph"
            )
        lengths = cu_seqlens.diff()
        if on_host or (checks.DEBUG and not torch.compiler.is_compiling()):
            tokens, max_seqlen = _check_contents(cu_seqlens, lengths, tokens, max_seqlen)
        assert tokens is not None and max_seqlen is not None
        count = len(lengths)
        if keys is None:
            keys = torch.arange(count, device=cu_seqlens.device)
        if keys.dtype != torch.int64 or tuple(keys.shape) != (count,):
            raise ValueError(
                f"documents: keys must be int64 of shape ({count},), one per document, "
                f"got {keys.dtype} {tuple(keys.shape)}"
            )
        checks.same_device("documents", "cu_seqlens", cu_seqlens, keys=keys)
        index = torch.arange(count, device=cu_seqlens.device)
        # with output_size the lengths are not read back from a GPU
        document_ids = torch.repeat_interleave(index, lengths, output_size=tokens)
        positions = torch.arange(tokens, device=cu_seqlens.device) - cu_seqlens.long()[document_ids]
        order = torch.argsort(lengths, descending=True, stable=True)
        return cls(
            cu_seqlens=cu_seqlens,
            keys=keys,
            tokens=tokens,
            max_seqlen=max_seqlen,
            positions=positions,
            document_ids=document_ids,
            row_keys=philox.row_keys(keys[document_ids], positions),
            order=order.int(),
            tiles=_tiles(cu_seqlens, lengths, order, tokens),
        )

    def first_rows(self) -> Tensor:
        """The row of each document's first token, int64 (S,); for an empty document, any row."""
        return self.cu_seqlens[:-1].long().clamp(max=max(0, self.tokens - 1))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Documents:
        """Return the same documents on another device."""
        return self._with_each(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Documents:
        """Return the same documents in page-locked memory, from which a GPU copies while the host goes on."""
        return self._with_each(lambda x: x.pin_memory())

    def _with_each(self, change: Callable[[Any], Any]) -> Documents:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Documents(**{k: change(value) if isinstance(value, Tensor) else value for k, value in values.items()})


# a pytree: torch.export and torch.utils._pytree see its tensors
torch.export.register_dataclass(Documents)


def _tiles(cu_seqlens: Tensor, lengths: Tensor, order: Tensor, tokens: int) -> Tensor:
    """Make the work list, in static shapes; no value is read back from a GPU or sent to it."""
    lengths = lengths[order]  # (S,), decreasing
    documents = torch.stack((order.int(), torch.zeros_like(lengths), cu_seqlens[order], lengths), 1)
    ends = ((lengths + (TILE_ROWS - 1)) // TILE_ROWS).cumsum(0)  # tiles up to and with each document
    longer = torch.stack([lengths > bound for bound in BOUNDS])
    head = documents.new_zeros(TILES_HEAD, 4)
    head[: len(BOUNDS), 0] = longer.sum(1)
    head[: len(BOUNDS), 1] = torch.where(longer, ends, 0).amax(1)
    number = torch.arange(tokens // TILE_ROWS + len(order), device=lengths.device)
    slot = torch.searchsorted(ends, number, right=True)
    valid = (slot < len(order))[:, None]
    slot = slot.clamp_(max=len(order) - 1)
    tiles = documents[slot]
    # From a document's last tile to its first, so that a causal kernel begins with the rows that see most.
    tiles[:, 1] = (ends[slot] - 1 - number) * TILE_ROWS
    return torch.cat((head, documents, tiles * valid))


def _check_contents(cu_seqlens: Tensor, lengths: Tensor, tokens: int | None, max_seqlen: int | None) -> tuple[int, int]:
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0:
        raise ValueError(f"documents: cu_seqlens must start at 0, starts at {first}")
    if int(lengths.min()) < 0:
        where = int(lengths.argmin())
        raise ValueError(
            f"documents: cu_seqlens must not decrease, entry {where + 1} is {int(cu_seqlens[where + 1])} "
            f"after {int(cu_seqlens[where])}; give offsets, not lengths"
        )
    if tokens is not None and last != tokens:
        raise ValueError(
            f"documents: cu_seqlens must end at the number of tokens ({tokens}), ends at {last}; "
            "does it count padded tokens?"
        )
    actual = int(lengths.max())
    if max_seqlen is not None and actual > max_seqlen:
        raise ValueError(
            f"documents: max_seqlen must bound every document, is {max_seqlen} but one has {actual} tokens"
        )
    return last, actual if max_seqlen is None else max_seqlen
