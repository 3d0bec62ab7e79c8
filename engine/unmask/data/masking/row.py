"""A packed row as masking sees it, and the random words drawn at its tokens.

    (r0, r1, r2, r3) = philox(counter (t, 0, low, high), key)           t counts from a piece's [CLS], name (low, high)
    priority(t)      = word t mod 4 of philox(counter (t div 4, 0, low, high), key)

Nothing depends on where a piece lies in the row. Shapes: N tokens, P pieces.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unmask.data.randomness import philox_4x32

__all__ = ["Flags", "Indices", "Row", "Words"]

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]
Key = tuple[int, int]

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A packed row.

    Attributes:
        ids: token ids with [CLS] and [SEP], (N,).
        special: True where an id is never chosen, (N,).
        sizes: tokens of each piece, all positive, (P,).
        starts: row of the first token of each piece, (P,).
        names: of the pieces, uint64 (P,).
        piece: of each token, (N,).
        token: its place in the piece, (N,).
    """

    ids: npt.NDArray[Any]
    special: Flags
    sizes: Indices
    starts: Indices
    names: Words
    piece: Indices
    token: Indices

    @classmethod
    def of(cls, ids: npt.NDArray[Any], lengths: npt.ArrayLike, keys: npt.ArrayLike, is_special: Flags) -> "Row":
        """Lay out a row; `keys` are uint64 or int64 with the same bits, `is_special` has an entry for every id."""
        sizes = np.asarray(lengths, dtype=np.int64)
        piece = np.repeat(np.arange(sizes.size), sizes)
        starts = np.cumsum(sizes) - sizes
        return cls(
            ids=ids,
            special=is_special[ids],
            sizes=sizes,
            starts=starts,
            names=np.asarray(keys).view(np.uint64),
            piece=piece,
            token=np.arange(ids.size) - starts[piece],
        )

    def draws(self, rows: Indices, key: Key) -> Words:
        """Four random words at each of some tokens, (4, len(rows)), values below 2**32."""
        names = self.names[self.piece[rows]]
        return philox_4x32(self.token[rows], 0, names & _LOW, names >> _32, *key)

    def priorities(self, key: Key) -> Words:
        """Priority of every token, (N,), below 2**32: one Philox call serves four tokens of a piece."""
        calls = (self.sizes + 3) // 4
        first = np.cumsum(calls) - calls
        owner = np.repeat(np.arange(calls.size), calls)
        block = np.arange(owner.size) - first[owner]
        words = philox_4x32(block, 0, (self.names & _LOW)[owner], (self.names >> _32)[owner], *key)
        flat: Words = words.T.reshape(-1)
        return flat[np.arange(self.piece.size) + (4 * first - self.starts)[self.piece]]

    def count(self, flags: Flags) -> Indices:
        """Flags set in each piece, (P,)."""
        if not self.starts.size:
            return np.zeros(0, dtype=np.int64)
        return np.add.reduceat(flags, self.starts, dtype=np.int64)
