"""Named distributions of document lengths, as corpora have them.

A distribution has a quantile function, which turns a uniform number in (0, 1) into a length. So lengths depend on the
seed alone, not on how a version of NumPy draws normal numbers. They count tokens, including [CLS] and [SEP].

    lognormal-512, lognormal-8192   median 300, sigma 1.1, as web pages and books have; with the maximum length of 512
                                    the mean is about 310, with 8,192 about 545
    queries                         mean 51, as questions with short passages have
    docstrings                      mean 135; pieces of at most 512 tokens of a real corpus, the documentation in the
                                    standard library, torch, numpy, sympy and networkx, tokenized by a WordPiece
                                    vocabulary of 8,192 trained on it
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

__all__ = ["DISTRIBUTIONS", "LengthDistribution", "random_documents"]

MIN_LENGTH = 3  # [CLS], one token, [SEP]


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthDistribution:
    """A named distribution of document lengths.

    Attributes:
        name: such as "lognormal-512".
        quantile: the length below which a given share of the documents lies.
        max_length: tokens of the longest document.
        min_length: tokens of the shortest document.
    """

    name: str
    quantile: Callable[[float], float]
    max_length: int
    min_length: int = MIN_LENGTH

    def __str__(self) -> str:
        return self.name

    def draw(self, count: int, seed: int = 0) -> list[int]:
        """Draw `count` lengths; the same seed gives the same lengths on every machine."""
        uniform = np.random.Generator(np.random.PCG64(seed)).random(count)
        # u = 0 has no normal quantile
        return [self._clip(self.quantile(max(float(u), 1e-12))) for u in uniform]

    def fill(self, tokens: int, seed: int = 0) -> list[int]:
        """Draw lengths that sum to exactly `tokens`; the last one is cut to fit.

        If the last one is then too short for a document, the document before it takes its tokens, or gives some of its
        own, so every length stays in bounds.

        Raises:
            ValueError: `tokens` is below the shortest document.
        """
        if tokens < self.min_length:
            raise ValueError(f"{self.name}: tokens must be at least {self.min_length}, one document, got {tokens}")
        # at most this many documents fit
        drawn = self.draw(tokens // self.min_length + 1, seed)
        lengths: list[int] = []
        left = tokens
        for length in drawn:
            lengths.append(min(length, left))
            left -= lengths[-1]
            if left == 0:
                break
        if lengths[-1] < self.min_length and len(lengths) > 1:
            rest = lengths.pop()
            if lengths[-1] + rest <= self.max_length:
                lengths[-1] += rest
            else:
                both = lengths.pop() + rest
                lengths += [both - self.min_length, self.min_length] if both >= 2 * self.min_length else [both]
        return lengths

    def _clip(self, length: float) -> int:
        return min(max(round(length), self.min_length), self.max_length)


def _constant(length: int) -> Callable[[float], float]:
    return lambda u: length


def _lognormal(median: float, sigma: float) -> Callable[[float], float]:
    normal = NormalDist()
    return lambda u: median * math.exp(sigma * normal.inv_cdf(u))


# quantiles of the pieces' lengths at 0, 1/20, 2/20, ... 1
_DOCSTRINGS = (8, 13, 15, 17, 20, 24, 29, 36, 44, 55, 68, 84, 104, 130, 163, 214, 274, 324, 384, 444, 512)


def _interpolated(knots: tuple[int, ...]) -> Callable[[float], float]:
    places = np.linspace(0.0, 1.0, len(knots))
    return lambda u: float(np.interp(u, places, knots))


DISTRIBUTIONS: dict[str, LengthDistribution] = {
    case.name: case
    for case in (
        LengthDistribution(name="all-128", quantile=_constant(128), max_length=128),
        LengthDistribution(name="all-512", quantile=_constant(512), max_length=512),
        LengthDistribution(name="uniform-16-512", quantile=lambda u: 16 + 496 * u, min_length=16, max_length=512),
        LengthDistribution(name="lognormal-512", quantile=_lognormal(300, 1.1), max_length=512),
        LengthDistribution(name="lognormal-8192", quantile=_lognormal(300, 1.1), max_length=8192),
        LengthDistribution(name="queries", quantile=_lognormal(39.5, 0.715), min_length=8, max_length=512),
        LengthDistribution(name="docstrings", quantile=_interpolated(_DOCSTRINGS), min_length=8, max_length=512),
    )
}
"""All distributions by name."""


def random_documents(
    lengths: list[int], vocab_size: int, *, cls_id: int, sep_id: int, first_id: int, seed: int = 0
) -> list[list[int]]:
    """Return documents of random ids in [first_id, vocab_size), each between [CLS] and [SEP]."""
    random = np.random.Generator(np.random.PCG64(seed))
    return [[cls_id, *random.integers(first_id, vocab_size, length - 2).tolist(), sep_id] for length in lengths]
