"""Which of several windows over a text decides about a token: the one in which it has most context.

    context of a token in a window = min(tokens before it, tokens after it) + 0.01 * tokens of the window

This is "max context" of BERT's question answering (Devlin et al. 2019, in their code). Of equal windows the first
decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_windows"]

_LENGTH_WEIGHT = 0.01


def best_windows(spans: Sequence[tuple[int, int]], tokens: int) -> NDArray[np.int64]:
    """Return for each token the number of the window that decides about it.

    Args:
        spans: first token of each window and the one after its last.
        tokens: number of tokens of the text, N.
    Returns:
        (N,) int64; -1 for a token that no window holds.
    """
    best = np.full(tokens, -1, np.int64)
    most = np.full(tokens, -1.0)
    for number, (start, end) in enumerate(spans):
        before = np.arange(end - start)
        context = np.minimum(before, before[::-1]) + _LENGTH_WEIGHT * (end - start)
        better = context > most[start:end]
        best[start:end][better] = number
        most[start:end][better] = context[better]
    return best
