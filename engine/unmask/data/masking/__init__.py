"""Masking of packed pieces: which tokens are predicted, and what stands in their place."""

from .masker import Masked, Masker, Masking
from .next_token import NextToken

__all__ = ["Masked", "Masker", "Masking", "NextToken"]
