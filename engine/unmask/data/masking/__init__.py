"""Masking of packed pieces: which tokens are predicted, and what stands in their place."""

from .masker import MASK_RATE_DENOMINATOR, Masked, Masker, Masking, MaskRule
from .next_token import NextToken

__all__ = ["MASK_RATE_DENOMINATOR", "MaskRule", "Masked", "Masker", "Masking", "NextToken"]
