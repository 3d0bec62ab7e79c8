"""What masking has to move, at best: T tokens with ids of `itemsize` bytes, S documents, M slots."""

from __future__ import annotations

__all__ = ["bytes_forward"]


def bytes_forward(tokens: int, documents: int, slots: int, itemsize: int, *, words: bool = False) -> int:
    """Read ids, a flag a token of the table of special ids and of the word starts; write ids, rows and labels."""
    return tokens * (2 * itemsize + 1 + words) + 12 * documents + 16 * slots
