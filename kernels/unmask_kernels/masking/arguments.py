"""The records of masking: what the operation takes and returns.

T tokens, S documents, V ids, O ordinary ids, M slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = ["Arguments", "MaskedTokens"]


class Arguments(NamedTuple):
    """What the operation takes, as `masking` documents it.

    cu_seqlens, int32 (S + 1,), document_keys, int64 (S,), and max_seqlen come from its `Documents`.
    """

    ids: Tensor
    word_starts: Tensor | None
    special: Tensor
    ordinary: Tensor
    keys: Tensor
    cu_seqlens: Tensor
    document_keys: Tensor
    rate: float
    split: Sequence[float]
    mask_id: int
    capacity: int
    max_seqlen: int


class MaskedTokens(NamedTuple):
    """What the operation returns, on the device of ids.

    Attributes:
        ids: corrupted ids, (T,), dtype of ids.
        rows: row of each token to predict, int64 (M,); used slots ascend; unused ones, also between them, are 0.
        labels: their original ids, int64 (M,); unused slots are -100.
    """

    ids: Tensor
    rows: Tensor
    labels: Tensor
