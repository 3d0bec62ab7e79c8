"""The embedding family: word, position and segment tables, layer norm and dropout in one operation."""

from .choice import FAMILY, EmbeddingCall
from .op import embedding

__all__ = ["FAMILY", "EmbeddingCall", "embedding"]
