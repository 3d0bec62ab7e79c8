"""Burstiness: how often the tokens of a sequence occur again in it (Zhao et al. 2024, arXiv:2402.13991).

    c_1 ... c_n   how often each of the n different tokens of a sequence occurs
    P(c) = c^-s / zeta(s)          s in [1.01, 10] of greatest likelihood:  mean of ln c = - zeta'(s) / zeta(s)

The exponent s is that of the published script. It is small for a sequence that repeats itself; a sequence whose tokens
all differ has the largest, 10. The exponent of Zipf's law of ranks is 1 / (s - 1), which grows with repetition. zeta is
summed up to 10 and continued by the formula of Euler and Maclaurin; s is read off a table of 4,096 places.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["exponent", "exponents", "log_zeta"]

LOWEST, HIGHEST = 1.01, 10.0
_TERMS = 10
_PLACES = 4096

Floats = npt.NDArray[np.float64]


def exponents(sequences: Iterable[npt.NDArray[np.integer]]) -> Floats:
    """Compute the exponent s of each sequence of token ids, (Q,); empty sequences are left out."""
    return np.array([exponent(np.unique(ids, return_counts=True)[1].tolist()) for ids in sequences if ids.size])


def exponent(counts: Sequence[int]) -> float:
    """Compute the exponent of greatest likelihood of counts, each at least 1.

    Raises:
        ValueError: no counts, or one below 1.
    """
    if not len(counts) or min(counts) < 1:
        raise ValueError(f"burstiness: counts must hold numbers of at least 1, got {list(counts)[:5]}")
    places, means = _table()
    # the mean falls as s rises, and np.interp wants it ascending
    return float(np.interp(np.log(counts).mean(), means[::-1], places[::-1]))


def log_zeta(s: Floats) -> Floats:
    """Compute the logarithm of Riemann's zeta function at s > 1, (n,)."""
    n = np.arange(1, _TERMS)[:, None]
    head = (n ** -s[None, :]).sum(0)
    last = float(_TERMS)
    tail = last ** (1 - s) / (s - 1) + last**-s / 2 + s * last ** (-s - 1) / 12
    tail -= s * (s + 1) * (s + 2) * last ** (-s - 3) / 720
    return np.log(head + tail)


@cache
def _table() -> tuple[Floats, Floats]:
    """Tabulate exponents, denser where s is small, and the mean of ln c under each, (4096,) each."""
    places = 1 + np.geomspace(LOWEST - 1, HIGHEST - 1, _PLACES)
    step = 1e-5 * (places - 1)
    return places, -(log_zeta(places + step) - log_zeta(places - step)) / (2 * step)
