"""The order of documents in an epoch: a pseudo-random permutation of [0, n) that is computed, never stored.

    permute(i) = walk(feistel(i)),  feistel: (left, right) -> (right, left xor F(right, round key)), 6 rounds

A Feistel network over b = ceil(log2 n) bits is a permutation of [0, 2**b) whatever F is; walking (applying it
again while the result is not below n) restricts it to [0, n) (Black and Rogaway 2002, "Ciphers with arbitrary
finite domains"). Since 2**b < 2 n, a walk takes fewer than two applications on average. The two halves differ
by a bit when b is odd: they exchange their widths each round, and an even number of rounds brings them back.

Memory O(1) in n; about 60 ns an index, one core.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from unmask.data.randomness import mix64, site_key

__all__ = ["Permutation"]

_ROUNDS = 6


class Permutation:
    """A permutation of [0, n) named by a 64-bit seed, a site and further integers (epoch, source)."""

    def __init__(self, n: int, seed: int, site: int, *parts: int) -> None:
        """Make the permutation of `n` >= 1 elements; raises ValueError for an empty one."""
        if n < 1:
            raise ValueError(f"Permutation: n must be at least 1, got {n}")
        self.n = n
        bits = max(2, (n - 1).bit_length())
        self._left_bits, self._right_bits = bits // 2, bits - bits // 2
        words = [site_key(seed, site, *parts, r) for r in range(_ROUNDS)]
        self._keys = [np.uint64(low | high << 32) for low, high in words]

    def __call__(self, indices: Any) -> npt.NDArray[np.int64]:
        """Return where `indices` (m,) in [0, n) go, (m,) int64."""
        out = self._network(np.asarray(indices, dtype=np.uint64))
        limit = np.uint64(self.n)
        astray = np.flatnonzero(out >= limit)
        while astray.size:
            moved = self._network(out[astray])
            out[astray] = moved
            astray = astray[moved >= limit]
        return out.astype(np.int64)

    def _network(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left_bits, right_bits = self._left_bits, self._right_bits
        left = values >> np.uint64(right_bits)
        right = values & np.uint64((1 << right_bits) - 1)
        for key in self._keys:
            # The top bits of the mixed word are its best, so they are the ones that are kept.
            left, right = right, left ^ (mix64(right ^ key) >> np.uint64(64 - left_bits))
            left_bits, right_bits = right_bits, left_bits
        return (left << np.uint64(right_bits)) | right
