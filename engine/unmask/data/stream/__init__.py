"""The stream: from a token store to packed, masked micro-batches, as a pure function of their number."""

from unmask.data.stream.blocks import TokenStore
from unmask.data.stream.stream import Stream

__all__ = ["Stream", "TokenStore"]
