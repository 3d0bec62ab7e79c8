"""Document lengths as corpora have them, as named deterministic cases.

A case is the quantile function of its lengths: a uniform number u in (0, 1) becomes a length. So a draw
depends on the seed alone and not on how a version of NumPy makes normal numbers. Lengths count tokens with
[CLS] and [SEP].

`lognormal(300, 1.1)` has median 300 and sigma 1.1, as web and book documents after cutting; capped at 512
its mean is about 310, capped at 8,192 about 545. `queries` has mean 51, as questions with short passages. `docstrings`
is a real corpus, the one that is embedded: the pieces of at most 512 tokens of the documentation in the standard
library, torch, numpy, sympy and networkx, in the WordPiece vocabulary of 8,192 trained on it; mean 135.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

__all__ = ["CASES", "LengthCase", "documents"]

SHORTEST = 3  # [CLS], one token, [SEP]


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthCase:
    """A named distribution of document lengths, from `shortest` to `longest` tokens."""

    name: str
    quantile: Callable[[float], float]
    longest: int
    shortest: int = SHORTEST

    def __str__(self) -> str:
        return self.name

    def draw(self, count: int, seed: int = 0) -> list[int]:
        """`count` lengths, the same ones for the same seed everywhere."""
        uniform = np.random.Generator(np.random.PCG64(seed)).random(count)
        # u = 0 has no normal quantile
        return [self._clip(self.quantile(max(float(u), 1e-12))) for u in uniform]

    def fill(self, tokens: int, seed: int = 0) -> list[int]:
        """Lengths that sum to exactly `tokens`: drawn in order, the last one cut to fit.

        A rest too short for a document is added to the one before, or taken by shortening it, so that every
        length stays in bounds.

        Raises:
            ValueError: `tokens` is below the shortest document.
        """
        if tokens < self.shortest:
            raise ValueError(f"{self.name}: tokens must be at least {self.shortest}, one document, got {tokens}")
        # at most this many documents fit
        drawn = self.draw(tokens // self.shortest + 1, seed)
        lengths: list[int] = []
        left = tokens
        for length in drawn:
            lengths.append(min(length, left))
            left -= lengths[-1]
            if left == 0:
                break
        if lengths[-1] < self.shortest and len(lengths) > 1:
            rest = lengths.pop()
            if lengths[-1] + rest <= self.longest:
                lengths[-1] += rest
            else:
                both = lengths.pop() + rest
                lengths += [both - self.shortest, self.shortest] if both >= 2 * self.shortest else [both]
        return lengths

    def _clip(self, length: float) -> int:
        return min(max(round(length), self.shortest), self.longest)


def _constant(length: int) -> Callable[[float], float]:
    return lambda u: length


def _lognormal(median: float, sigma: float) -> Callable[[float], float]:
    normal = NormalDist()
    return lambda u: median * math.exp(sigma * normal.inv_cdf(u))


# lengths at every twentieth of the pieces, the shortest first
_DOCSTRINGS = (8, 13, 15, 17, 20, 24, 29, 36, 44, 55, 68, 84, 104, 130, 163, 214, 274, 324, 384, 444, 512)


def _interpolated(knots: tuple[int, ...]) -> Callable[[float], float]:
    places = np.linspace(0.0, 1.0, len(knots))
    return lambda u: float(np.interp(u, places, knots))


CASES: dict[str, LengthCase] = {
    case.name: case
    for case in (
        LengthCase(name="all-128", quantile=_constant(128), longest=128),
        LengthCase(name="all-512", quantile=_constant(512), longest=512),
        LengthCase(name="uniform-16-512", quantile=lambda u: 16 + 496 * u, shortest=16, longest=512),
        LengthCase(name="lognormal-512", quantile=_lognormal(300, 1.1), longest=512),
        LengthCase(name="lognormal-8192", quantile=_lognormal(300, 1.1), longest=8192),
        LengthCase(name="queries", quantile=_lognormal(39.5, 0.715), shortest=8, longest=512),
        LengthCase(name="docstrings", quantile=_interpolated(_DOCSTRINGS), shortest=8, longest=512),
    )
}
"""All cases by name."""


def documents(
    lengths: list[int], vocab_size: int, *, cls_id: int, sep_id: int, first_id: int, seed: int = 0
) -> list[list[int]]:
    """Documents of random ordinary ids in [first_id, vocab_size), each between [CLS] and [SEP]."""
    random = np.random.Generator(np.random.PCG64(seed))
    return [[cls_id, *random.integers(first_id, vocab_size, length - 2).tolist(), sep_id] for length in lengths]
