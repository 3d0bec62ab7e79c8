"""What a stream depends on besides the text: capacities, seed, composition, masking, held-out share."""

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from unmask.data.compose.composition import Composition
from unmask.data.compose.sequences import Sequences
from unmask.data.masking import MASK_RATE_DENOMINATOR, Masking
from unmask.data.stream.plan import Capacities
from unmask.errors import ConfigError
from unmask.limits import SHORTEST, SHORTEST_PAIR

__all__ = ["StreamConfig"]

# Room above the expected number, in standard deviations of it; 4 % of the mean more for the documents, whose slots
# cost little, and 1 % for the masked tokens, whose slots are rows of the output projection.
_DEVIATIONS = 3.0
_MORE_DOCUMENTS, _MORE_MASKED = 1.04, 1.01


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """Capacities, randomness and masking of a stream; all of it is part of the stream's identity.

    Attributes:
        max_length: tokens of a piece, [CLS] and [SEP] included (L), at least 3.
        tokens: tokens of a micro-batch (T). Default: 32 L.
        sequences: documents of a micro-batch (S). Default: what T tokens of this store's pieces take, and some.
        masked: masked tokens of a micro-batch (M). Default: what masking chooses in T tokens of this store's
            pieces, and some; short pieces have more than `mask_rate`, since each has at least one.
        seed: 64-bit seed of order and masks.
        mask_rate: share of a piece's tokens to predict.
        mask_rate_end: that share from micro-batch `mask_rate_over` on, reached linearly. Default: it stays. Held-out
            text always has `mask_rate`, so that scores compare.
        mask_split: shares of those that become [MASK] (a similar word), become a random token, stay.
        masking: how tokens are chosen and replaced; `next_token` masks nothing and labels each token with the next.
        static_masks: number of epochs after which they repeat: the same order, pieces and masks, other dropout.
            Default: each epoch is new.
        held_out_fraction: share of the documents kept for evaluation, chosen by the hash of their content.
        composition: how documents become sequences, and how often those of each source come.
    """

    max_length: int
    tokens: int | None = None
    sequences: int | None = None
    masked: int | None = None
    seed: int = 0
    mask_rate: float = 0.15
    mask_rate_end: float | None = None
    mask_rate_over: int = 1
    masking: Masking | Literal["next_token"] = "token"
    static_masks: int | None = None
    mask_split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    held_out_fraction: float = 0.01
    composition: Composition = field(default_factory=Composition)

    @property
    def highest_rate(self) -> float:
        """The largest mask rate of any micro-batch, which capacities are made for."""
        return self.mask_rate if self.mask_rate_end is None else max(self.mask_rate, self.mask_rate_end)

    def rate_at(self, index: int) -> Fraction:
        """The mask rate of global micro-batch `index`, exact: no rank or worker computes another."""
        begin = Fraction(self.mask_rate).limit_denominator(MASK_RATE_DENOMINATOR)
        if self.mask_rate_end is None:
            return begin
        end = Fraction(self.mask_rate_end).limit_denominator(MASK_RATE_DENOMINATOR)
        return begin + (end - begin) * min(index, self.mask_rate_over) / self.mask_rate_over

    def capacities(
        self,
        lengths: npt.NDArray[np.integer],
        mask_counts: npt.NDArray[np.int64],
        *,
        weights: npt.NDArray[np.float64] | None = None,
        sample: Sequences | None = None,
    ) -> Capacities:
        """Fill in the defaults.

        Args:
            lengths: content tokens of every document of the store, (N,).
            mask_counts: masked tokens of a piece of n tokens, specials included, at index n, (L + 1,).
            weights: how often each document comes in an epoch, (N,). Default: once.
            sample: sequences as the composition makes them. Default: the even pieces of all documents.
        Raises:
            ConfigError: T, S, M or L cannot hold a piece.
        """
        max_length = self.max_length
        if max_length < SHORTEST:
            raise ConfigError(
                f"stream: data.max_length must be at least {SHORTEST}, for [CLS], a token and [SEP], got {max_length}"
            )
        if self.composition.strategy == "pairs" and max_length < SHORTEST_PAIR:
            raise ConfigError(
                f"stream: data.max_length must be at least {SHORTEST_PAIR}, for [CLS], two segments and their [SEP], "
                f"got {max_length}"
            )
        tokens = 32 * max_length if self.tokens is None else self.tokens
        if tokens < max_length:
            raise ConfigError(
                f"stream: train.micro_batch_tokens must be at least data.max_length ({max_length}) to hold one piece, "
                f"got {tokens}"
            )
        if not 0 <= self.held_out_fraction < 1:
            raise ConfigError(f"stream: data.held_out must lie in [0, 1), got {self.held_out_fraction}")
        sequences, masked = self.sequences, self.masked
        fewest, fewest_masked = self._fewest(tokens, mask_counts)
        if sample is None:
            sizes, count = np.arange(max_length + 1), _pieces_by_size(lengths, max_length, weights)
            in_masked, slots = mask_counts, np.ones_like(sizes)
        else:
            sizes, in_masked, slots = sample.costs(mask_counts)
            count = np.ones(sizes.size)
        if sequences is None:
            sequences = max(fewest, _room(tokens, sizes, count, slots, _MORE_DOCUMENTS))
        if sequences < fewest:
            raise ConfigError(
                f"stream: train.max_documents must be at least {fewest}, the documents of one sequence and the inert "
                f"documents that fill up {tokens} tokens, got {sequences}"
            )
        if masked is None:
            masked = min(tokens, max(fewest_masked, _room(tokens, sizes, count, in_masked, _MORE_MASKED)))
        if masked < fewest_masked:
            raise ConfigError(
                f"stream: {masked} masked tokens of a micro-batch are too few for one piece of data.max_length "
                f"({max_length}), which has {fewest_masked} at data.mask_rate {self.mask_rate}; give at least that many"
            )
        return Capacities(tokens=tokens, sequences=sequences, masked=masked, max_length=max_length)

    def _fewest(self, tokens: int, mask_counts: npt.NDArray[np.int64]) -> tuple[int, int]:
        """Slots for documents and for masked tokens that any sequence finds room in, alone in a micro-batch."""
        max_length = self.max_length
        # A document of 3 tokens alone leaves the most room for inert documents.
        alone = 1 + -(-(tokens - SHORTEST) // max_length)
        if not self.composition.joins:
            return alone, int(mask_counts[-1])
        # A sequence may be made of the shortest documents, each with a masked token.
        most = max_length // SHORTEST
        share = (mask_counts[SHORTEST:] / np.arange(SHORTEST, max_length + 1)).max()
        return max(alone, most + -(-(tokens - most * SHORTEST) // max_length)), min(tokens, ceil(share * max_length))


def _pieces_by_size(
    lengths: npt.NDArray[np.integer], max_length: int, weights: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    """How many pieces of n tokens, specials included, documents are cut into, at index n, (L + 1,)."""
    content = lengths[lengths > 0].astype(np.int64)
    often = np.ones(content.size) if weights is None else weights[lengths > 0]
    parts = -(-content // (max_length - 2))
    size, larger = np.divmod(content, parts)
    small = np.bincount(size + 2, weights=often * (parts - larger), minlength=max_length + 2)
    large = np.bincount(size + 3, weights=often * larger, minlength=max_length + 2)
    return np.asarray((small + large)[: max_length + 1], dtype=np.float64)


def _room(
    tokens: int,
    sizes: npt.NDArray[np.int64],
    pieces: npt.NDArray[np.float64],
    each: npt.NDArray[np.int64],
    more: float,
) -> int:
    """Slots for what T tokens of shuffled pieces need at `each[i]` a piece of `sizes[i]` tokens, a multiple of 16.

    There are `pieces[i]` of kind i. The expected number is T a, with a = sum(each) / sum(size) over the pieces. The
    number drawn differs from it by the sum of each - a size over the P = T / mean(size) pieces of a micro-batch:
    sqrt(P) deviations of that.
    """
    count = pieces.sum()
    if not count:
        return 16
    share = (pieces * each).sum() / (pieces * sizes).sum()
    variance = (pieces * (each - share * sizes) ** 2).sum() / count
    drawn = tokens * count / (pieces * sizes).sum()
    return ceil((more * share * tokens + _DEVIATIONS * sqrt(drawn * variance) + 2) / 16) * 16
