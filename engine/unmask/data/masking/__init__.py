"""Masking of packed pieces: which tokens are predicted, and what replaces them."""

from .masker import MASK_RATE_DENOMINATOR, Masked, Masker, MaskRule, NextToken

__all__ = ["MASK_RATE_DENOMINATOR", "MaskRule", "Masked", "Masker", "NextToken"]
