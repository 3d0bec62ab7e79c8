"""Masking of packed pieces: which tokens are predicted, and what stands in their place."""

from .masker import Masked, Masker, Masking

__all__ = ["Masked", "Masker", "Masking"]
