"""What a call of attention says beside qkv: one record, which every backend takes in both directions."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..documents import Documents

__all__ = ["Arguments"]


class Arguments(NamedTuple):
    """The documents, who sees whom in them, and what is dropped.

    Attributes:
        cu_seqlens, keys, order, tiles: lists of `Documents`, int32 (S + 1,), int64 (S,), int32 (S,), int32 (slots, 4).
        key: of the random stream, scalar int64; None without dropout.
        p: probability of dropping an attention probability, in [0, 1).
        causal: whether a row sees only columns up to its own.
        window: columns seen on either side of a row's own, -1 for all.
        scale: factor of the scores.
        max_seqlen: static bound on the length of a document.
    """

    cu_seqlens: Tensor
    keys: Tensor
    order: Tensor
    tiles: Tensor
    key: Tensor | None
    p: float
    causal: bool
    window: int
    scale: float
    max_seqlen: int

    @classmethod
    def of(
        cls, documents: Documents, *, key: Tensor | None, p: float, causal: bool, window: int | None, scale: float
    ) -> Arguments:
        """The record of a call of `attention`, whose window may be None."""
        max_seqlen = documents.max_seqlen
        return cls(
            documents.cu_seqlens,
            documents.keys,
            documents.order,
            documents.tiles,
            None if p == 0.0 else key,
            p,
            causal,
            # no two tokens of a document are farther apart, so backends without windows may run it
            -1 if window is None or window >= max_seqlen else window,
            scale,
            max_seqlen,
        )

    @property
    def banded(self) -> bool:
        """Whether a row may be kept from seeing a token of its document."""
        return self.causal or self.window >= 0

    @property
    def sides(self) -> tuple[int, int]:
        """Columns seen left and right of a row's own, -1 for all of them."""
        return self.window, 0 if self.causal else self.window
