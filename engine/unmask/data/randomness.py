"""Random numbers by address, for the data stream: Philox-4x32-10 in NumPy, and 64-bit keys of pieces of text.

    (r0, r1, r2, r3) = philox(counter = (c0, c1, c2, c3), key = (k0, k1))        all words are uint32

Nothing here has a state. A number is a function of its address alone, so order and masks do not depend on who computes
them, when, or after how many restarts. Philox is that of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3", with the constants of Random123; it gives the same bits as `unmask_kernels.philox` and Triton's `tl.philox`.

The key of a piece is made from (epoch, source, document in its source, piece of the document) with the finaliser of
SplitMix64 (Steele 2014). The finaliser maps 64-bit numbers one to one, so two pieces of one document never share a key.

Cost: about 25 ns for four words, one core; blocks of 8,192 counters stay in the L2 cache.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "ORDER",
    "PAIRS",
    "PIECES",
    "QUERIES",
    "REPLACEMENT",
    "SELECTION",
    "STREAMS",
    "WALK",
    "Uint64Array",
    "mix64",
    "philox_4x32",
    "piece_keys",
    "site_key",
]

Uint64Array = npt.NDArray[np.uint64]

# A site is what a number is drawn for. Sites are part of the stream's identity, so none is reused for a new purpose.
ORDER = 1
PIECES = 2
SELECTION = 3
REPLACEMENT = 4
WALK = 5
# Composition of sequences has its sites from 16 on.
STREAMS = 16
PAIRS = 17
QUERIES = 18

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_BLOCK = 8192


def philox_4x32(c0: Any, c1: Any, c2: Any, c3: Any, k0: int, k1: int) -> Uint64Array:
    """Return the four output words of Philox-4x32-10 for many counters under one key.

    Args:
        c0, c1, c2, c3: counter words, arrays of shape (n,) or scalars, values in [0, 2**32).
        k0, k1: key words, in [0, 2**32).
    Returns:
        (4, n) uint64 holding values below 2**32.
    """
    (size,) = np.broadcast_shapes((1,), *(np.shape(word) for word in (c0, c1, c2, c3)))
    out = np.empty((4, size), dtype=np.uint64)
    for row, word in enumerate((c0, c1, c2, c3)):
        out[row] = word
    keys = _schedule(k0, k1)
    for start in range(0, size, _BLOCK):
        _rounds(out[:, start : start + _BLOCK], keys)
    return out


@lru_cache(maxsize=64)
def _schedule(k0: int, k1: int) -> list[Uint64Array]:
    """Return the key of each round, (2, 1) each."""
    return [
        np.array([[(k0 + r * _WEYL[0]) & 0xFFFFFFFF], [(k1 + r * _WEYL[1]) & 0xFFFFFFFF]], dtype=np.uint64)
        for r in range(_ROUNDS)
    ]


def _rounds(words: Uint64Array, keys: list[Uint64Array]) -> None:
    """Replace the counters `words` (4, b) by their random words, in place."""
    # The even words are multiplied, the odd ones only travel: as two (2, b) arrays a round is 5 NumPy calls.
    even, odd = words[0::2].copy(), words[1::2].copy()
    product = np.empty_like(even)
    for key in keys:
        np.multiply(even, _MULTIPLIERS, out=product)
        # The high halves change places: word 0 gets that of word 2's product and word 2 that of word 0's.
        np.right_shift(product[::-1], _32, out=even)
        np.bitwise_xor(even, odd, out=even)
        np.bitwise_xor(even, key, out=even)
        np.bitwise_and(product[::-1], _LOW, out=odd)
    words[0::2] = even
    words[1::2] = odd


def mix64(values: Any) -> Uint64Array:
    """Scramble 64-bit numbers one to one (the finaliser of SplitMix64); uint64 of the same shape, at least (1,)."""
    x = np.array(values, dtype=np.uint64, ndmin=1)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def site_key(seed: int, site: int, *parts: int) -> tuple[int, int]:
    """Derive a Philox key (low word, high word) from a 64-bit seed, a site and any further numbers."""
    state = int(mix64((seed + _GOLDEN) & _MASK64)[0])
    for part in (site, *parts):
        state = int(mix64((state ^ int(mix64((part + _GOLDEN) & _MASK64)[0])) & _MASK64)[0])
    return state & 0xFFFFFFFF, state >> 32


def piece_keys(epoch: Any, source: Any, document: Any, piece: Any) -> Uint64Array:
    """Make the 64-bit keys of pieces of documents.

    Args:
        epoch: how often each piece's source was read before, (n,) or scalar, in [0, 2**32).
        source: number of each piece's source, (n,) or scalar, in [0, 2**32).
        document: index of its document within that source, (n,).
        piece: number of the piece within the document, (n,).
    Returns:
        uint64 (n,). The seed of the run is not in a key; it enters where a number is drawn.
    """
    when = (np.array(epoch, dtype=np.uint64, ndmin=1) << _32) + np.uint64(_GOLDEN)
    where = mix64(np.asarray(source, dtype=np.uint64) + when)
    which = mix64(where ^ np.asarray(document, dtype=np.uint64))
    return mix64(which + np.asarray(piece, dtype=np.uint64))
