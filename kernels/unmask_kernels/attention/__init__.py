"""The attention family: attention bounded by the documents of a packed row."""

from .op import FAMILY, AttentionCall, attention

__all__ = ["FAMILY", "AttentionCall", "attention"]
