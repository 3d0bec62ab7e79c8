"""BERT's masking (Devlin et al. 2019, arXiv:1810.04805) of packed pieces, a function of (seed, piece, token).

For a piece of n tokens named by the 64-bit key (low, high), with t = 0 at its [CLS]:

    count       = max(1, round(rate n)), ties to even, rate an exact fraction; never more than the candidates
    candidates  = tokens whose id is not special ([PAD], [UNK], [CLS], [SEP], [MASK])
    priority(t) = word t mod 4 of philox(counter (t div 4, 0, low, high), key site_key(seed, SELECTION))
    chosen      = the `count` candidates that come first by (priority(t), t)
    (r0, r1, ., .) = philox(counter (t, 0, low, high), key site_key(seed, REPLACEMENT))
    r0 <  A          -> [MASK]                                    A = round(2**32 split[0])
    A <= r0 < B      -> ordinary_ids[(r1 * len(ordinary_ids)) >> 32]    B = round(2**32 (split[0] + split[1]))
    B <= r0          -> stays as it is; it is predicted all the same

`count` is the rule of the published code, where n counts [CLS] and [SEP]. Nothing depends on the packed row,
so a piece is masked the same wherever it lies, and another backend that follows these lines is equal bit for bit.

Cost: about 80 ns a token, one core, at 16,384 tokens a call.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from unmask.data.randomness import REPLACEMENT, SELECTION, philox_4x32, site_key
from unmask.errors import ConfigError

__all__ = ["Masked", "Masker"]

_PRIORITY_BITS = np.uint64(34)
_NEVER = np.uint64((1 << 33) - 1)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Masked:
    """What masking made of a packed row of N tokens.

    Attributes:
        ids: corrupted ids, (N,), dtype of the input.
        rows: tokens to predict, ascending, int64 (m,).
        labels: their original ids, int64 (m,).
    """

    ids: npt.NDArray[Any]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


class Masker:
    """Chooses and corrupts tokens of packed pieces."""

    def __init__(
        self,
        *,
        seed: int,
        rate: float,
        split: tuple[float, float, float],
        special_ids: npt.ArrayLike,
        ordinary_ids: npt.ArrayLike,
        mask_id: int,
        vocab_size: int,
    ) -> None:
        """Fix the rule.

        Args:
            seed: 64-bit seed of the run.
            rate: share of a piece's tokens to predict, in (0, 1]; read as the nearest fraction with a
                denominator of at most 65,536, so that 0.15 is 3/20 exactly.
            split: shares of chosen tokens that become [MASK], become a random ordinary token, stay; they sum to 1.
            special_ids: ids that are never chosen.
            ordinary_ids: ids that a random replacement is drawn from.
            mask_id: id of [MASK].
            vocab_size: number of ids.
        Raises:
            ConfigError: a rate or split out of range, or no ordinary ids.
        """
        if not 0 < rate <= 1:
            raise ConfigError(f"masking: data.mask_rate must lie in (0, 1], got {rate}")
        if len(split) != 3 or min(split) < 0 or abs(sum(split) - 1) > 1e-6:
            raise ConfigError(f"masking: data.mask_split must be three shares that sum to 1, got {tuple(split)}")
        self._ordinary = np.asarray(ordinary_ids, dtype=np.int64)
        if not self._ordinary.size and split[1] > 0:
            raise ConfigError("masking: ordinary_ids must hold the ids that a random replacement draws, got none")
        fraction = Fraction(rate).limit_denominator(1 << 16)
        self._rate = (fraction.numerator, fraction.denominator)
        self._thresholds = (
            np.uint64(round(2**32 * split[0])),
            np.uint64(round(2**32 * min(1.0, split[0] + split[1]))),
        )
        self._selection = site_key(seed, SELECTION)
        self._replacement = site_key(seed, REPLACEMENT)
        self._mask_id = mask_id
        self._special = np.zeros(vocab_size, dtype=bool)
        self._special[np.asarray(special_ids, dtype=np.int64)] = True

    def counts(self, lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Tokens chosen in pieces of `lengths` tokens with [CLS] and [SEP], if no content token is special.

        This is what a micro-batch reserves; text that spells a special token lowers the true count where too
        few candidates are left.
        """
        n = np.asarray(lengths, dtype=np.int64)
        whole, rest = np.divmod(n * self._rate[0], self._rate[1])
        # Python's round: a half goes to the even neighbour.
        up = (2 * rest > self._rate[1]) | ((2 * rest == self._rate[1]) & (whole % 2 == 1))
        counts: npt.NDArray[np.int64] = np.minimum(np.maximum(whole + up, 1), np.maximum(n - 2, 0))
        return counts

    def __call__(self, ids: npt.NDArray[Any], lengths: npt.ArrayLike, keys: npt.ArrayLike) -> Masked:
        """Mask a packed row of pieces.

        Args:
            ids: token ids with [CLS] and [SEP], (N,), any unsigned or signed integer type.
            lengths: tokens of each piece, (P,), all positive, sum N.
            keys: names of the pieces, (P,), uint64, or int64 with the same bits.
        """
        sizes = np.asarray(lengths, dtype=np.int64)
        names = np.asarray(keys).view(np.uint64)
        piece = np.repeat(np.arange(sizes.size), sizes)
        starts = np.cumsum(sizes) - sizes
        token = np.arange(ids.size) - starts[piece]
        special = self._special[ids]
        rows = self._choose(sizes, starts, names, piece, special)
        labels = ids[rows].astype(np.int64)
        out = ids.copy()
        out[rows] = self._replace(labels, token[rows], names[piece[rows]])
        return Masked(ids=out, rows=rows, labels=labels)

    def _choose(
        self,
        sizes: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        names: npt.NDArray[np.uint64],
        piece: npt.NDArray[np.int64],
        special: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.int64]:
        """Rows of the chosen tokens, ascending."""
        candidates = sizes - _sums(special, starts)
        counts = np.minimum(self.counts(sizes), candidates)
        ranks = self._priorities(sizes, starts, names, piece)
        ranks[special] = _NEVER
        # One sort of the row orders every piece by itself, since the piece is in the high bits.
        ranks |= piece.astype(np.uint64) << _PRIORITY_BITS
        ordered = np.sort(ranks)
        last = np.where(counts > 0, ordered[np.minimum(starts + np.maximum(counts, 1) - 1, ranks.size - 1)], 0)
        chosen = ranks <= last[piece]
        if np.count_nonzero(chosen) != counts.sum():
            _drop_ties(chosen, ranks, last, starts, sizes, counts)
        return np.flatnonzero(chosen)

    def _priorities(
        self,
        sizes: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        names: npt.NDArray[np.uint64],
        piece: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.uint64]:
        """Priority plus one of every row, (N,): one Philox call serves four tokens of a piece."""
        calls = (sizes + 3) // 4
        first = np.cumsum(calls) - calls
        owner = np.repeat(np.arange(calls.size), calls)
        block = np.arange(owner.size) - first[owner]
        words = philox_4x32(block, 0, (names & _LOW)[owner], (names >> _32)[owner], *self._selection)
        flat = words.T.reshape(-1)
        return flat[np.arange(piece.size) + (4 * first - starts)[piece]] + np.uint64(1)

    def _replace(
        self, labels: npt.NDArray[np.int64], token: npt.NDArray[np.int64], names: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.int64]:
        """What the chosen tokens become."""
        kind, draw, _, _ = philox_4x32(token, 0, names & _LOW, names >> _32, *self._replacement)
        to_mask, to_random = self._thresholds
        out = np.where(kind < to_mask, self._mask_id, labels)
        if self._ordinary.size:
            random = self._ordinary[((draw * np.uint64(self._ordinary.size)) >> _32).astype(np.int64)]
            out = np.where((kind >= to_mask) & (kind < to_random), random, out)
        return out


def _sums(flags: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Flags set in each piece; no piece is empty."""
    if not starts.size:
        return np.zeros(0, dtype=np.int64)
    return np.add.reduceat(flags, starts, dtype=np.int64)


def _drop_ties(
    chosen: npt.NDArray[np.bool_],
    ranks: npt.NDArray[np.uint64],
    last: npt.NDArray[np.uint64],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
) -> None:
    """Where equal priorities chose too many, give up the later tokens; about one micro-batch in thousands."""
    excess = _sums(chosen, starts) - counts
    for p in np.flatnonzero(excess > 0):
        rows = slice(starts[p], starts[p] + sizes[p])
        tied = np.flatnonzero(ranks[rows] == last[p]) + starts[p]
        chosen[tied[tied.size - excess[p] :]] = False
