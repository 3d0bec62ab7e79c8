"""The numbers of BERT's masking rule, in integers, shared by all backends.

    count(n) = max(1, round(rate n)), ties to even, never more than n - 2; rate a fraction; n with [CLS] and [SEP]
    kind(r)  = [MASK] for r < A, random for A <= r < B, unchanged from B on: A, B = round(2**32 of the summed shares)

The slots of a document follow from lengths alone: it owns count(n) of them, behind those of the documents before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from .. import philox

__all__ = ["IGNORED", "Numbers", "counts", "draws", "numbers", "slot_offsets"]

IGNORED = -100
"""Label of a slot that no loss reads, as in PyTorch's cross-entropy."""

_FINEST = 1 << 16
_LOW = 0xFFFFFFFF


class Numbers(NamedTuple):
    """A rate as numerator / denominator, and the bounds A and B of a 32-bit draw."""

    numerator: int
    denominator: int
    to_mask: int
    to_random: int


def numbers(rate: float, split: Sequence[float]) -> Numbers:
    """`rate` is read as the nearest fraction with a denominator of at most 65,536, so that 0.15 is 3/20 exactly."""
    share = Fraction(rate).limit_denominator(_FINEST)
    to_mask, to_random = round(2**32 * split[0]), round(2**32 * min(1.0, split[0] + split[1]))
    return Numbers(share.numerator, share.denominator, to_mask, to_random)


def counts(lengths: Tensor, rate: Numbers) -> Tensor:
    """Tokens to predict in documents of `lengths` tokens with [CLS] and [SEP], int64 of the same shape."""
    product = lengths.long() * rate.numerator
    whole = torch.div(product, rate.denominator, rounding_mode="floor")
    twice = 2 * (product - whole * rate.denominator)
    up = (twice > rate.denominator) | ((twice == rate.denominator) & (whole % 2 == 1))
    return torch.minimum((whole + up).clamp(min=1), (lengths.long() - 2).clamp(min=0))


def slot_offsets(counts_: Tensor) -> Tensor:
    """First slot of every document, int64 (S,)."""
    return counts_.cumsum(0) - counts_


def draws(key: Tensor, document_keys: Tensor, counters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw four random numbers for each counter in a document, int64 in [0, 2**32)."""
    low, high = document_keys & _LOW, (document_keys >> 32) & _LOW
    return philox.philox_4x32(counters, torch.zeros_like(counters), low, high, key & _LOW, (key >> 32) & _LOW)
