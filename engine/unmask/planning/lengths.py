"""The lengths of the documents that a run reads: those of its store, or, before there is one, the longest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmask.data.store import Store

__all__ = ["lengths_of", "micro_batch_lengths"]

# documents that are looked at, spread evenly over the store
_SAMPLE = 4096


def lengths_of(store: Store | None, max_length: int) -> list[int]:
    """Return lengths of pieces with [CLS] and [SEP], in a random order that is always the same.

    Args:
        store: its documents are cut into as few pieces as fit, as even as can be. Without one, there is one length,
            `max_length`, which takes the most time and memory.
        max_length: of a piece.
    """
    if store is None:
        return [max_length]
    lengths = np.asarray(store.lengths)
    chosen = np.linspace(0, lengths.size, min(lengths.size, _SAMPLE), endpoint=False).astype(np.int64)
    whole = lengths[chosen].astype(np.int64)
    whole = whole[whole > 0]
    parts = -(-whole // (max_length - 2))
    owners = np.repeat(np.arange(whole.size), parts)
    part = np.arange(owners.size) - np.repeat(np.cumsum(parts) - parts, parts)
    sizes = (part + 1) * whole[owners] // parts[owners] - part * whole[owners] // parts[owners] + 2
    order = np.random.Generator(np.random.PCG64(0)).permutation(sizes.size)
    found: list[int] = sizes[order].tolist()
    return found or [max_length]


def micro_batch_lengths(lengths: Sequence[int], tokens: int) -> list[int]:
    """Return lengths from the beginning of `lengths`, again and again, that sum to `tokens`; the last is cut."""
    taken: list[int] = []
    left = tokens
    while left > 0:
        taken.append(min(left, lengths[len(taken) % len(lengths)]))
        left -= taken[-1]
    return taken
