"""Labels of a causal language model: every token predicts the one after it in its document; nothing is masked.

A document of n tokens, [CLS] and [SEP] included, has n - 1 predictions: all its content and its [SEP].
"""

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from unmask.data.masking.masker import Masked

__all__ = ["NextToken"]


class NextToken:
    """Takes the place of a `Masker` where nothing is masked."""

    def counts(self, lengths: npt.ArrayLike, *, rate: float | Fraction | None = None) -> npt.NDArray[np.int64]:
        """Predictions in documents of `lengths` tokens; `rate` has no meaning here."""
        return np.maximum(np.asarray(lengths, dtype=np.int64) - 1, 0)

    def __call__(
        self,
        ids: npt.NDArray[Any],
        lengths: npt.ArrayLike,
        keys: npt.ArrayLike,
        word_starts: npt.NDArray[np.bool_] | None = None,
        *,
        rate: float | Fraction | None = None,
    ) -> Masked:
        """Label a packed row; arguments as those of `Masker`, of which `ids` (N,) and `lengths` (P,) count."""
        last = np.cumsum(np.asarray(lengths, dtype=np.int64)) - 1
        followed = np.ones(ids.size, dtype=bool)
        followed[last] = False
        rows = np.flatnonzero(followed)
        return Masked(ids=ids, rows=rows, labels=ids[rows + 1].astype(np.int64))
