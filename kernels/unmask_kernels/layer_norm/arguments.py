"""What a call of layer_norm says beside rows and parameters: one record, which backends take in both directions."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Arguments"]


class Arguments(NamedTuple):
    """What is dropped and how the norm is taken.

    Attributes:
        key: of the random stream, scalar int64; None without dropout.
        row_keys: of the rows, int64 (T,); None without dropout.
        eps: added to the variance.
        p: probability of dropping an element of x + x_bias, in [0, 1).
    """

    key: Tensor | None
    row_keys: Tensor | None
    eps: float
    p: float
