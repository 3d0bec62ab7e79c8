"""The embedding family: token, position and segment tables, layer norm and dropout in one operation."""

from .op import FAMILY, EmbeddingCall, embedding

__all__ = ["FAMILY", "EmbeddingCall", "embedding"]
