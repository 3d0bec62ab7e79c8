"""The settings that a stream depends on besides the text, and the sizes that follow from both.

A micro-batch has fixed capacities: T tokens, S document slots and M slots for masked tokens. Where S and M are not
given they follow from the corpus: the mean number in T tokens, three standard deviations, and 4 % (S) or 1 % (M) more.
Mean and deviation come from the lengths of all documents, or from a sample that is composed as training composes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from unmask.data.compose import Block, Composition, Sequences, sampler
from unmask.data.masking import MASK_RATE_DENOMINATOR, Masking
from unmask.data.stream.blocks import Source, TokenStore
from unmask.data.stream.plan import Capacities
from unmask.errors import ConfigError, CorpusError
from unmask.limits import SHORTEST, SHORTEST_PAIR

__all__ = ["StreamConfig"]

_DEVIATIONS = 3.0
# A document slot costs little; a slot for a masked token is a row of the output projection.
_MORE_DOCUMENTS, _MORE_MASKED = 1.04, 1.01
# documents of the sample
_SAMPLE = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """Capacities, randomness and masking of a stream. All of it is part of the stream's identity.

    Attributes:
        max_length: tokens of a sequence, [CLS] and [SEP] included (L), at least 3.
        tokens: tokens of a micro-batch (T). Default: 32 L.
        sequences: document slots of a micro-batch (S). Default: from the corpus.
        masked: slots for masked tokens of a micro-batch (M). Default: from the corpus. Short pieces have more masked
            tokens than `mask_rate` says, since each has at least one.
        seed: 64-bit seed of order and masks.
        mask_rate: share of a piece's tokens to predict.
        mask_rate_end: the rate from micro-batch `mask_rate_over` on, reached linearly. Default: `mask_rate`. Held-out
            text always has `mask_rate`, so that scores compare.
        mask_rate_over: micro-batches in which the rate goes from `mask_rate` to `mask_rate_end`.
        masking: how tokens are chosen and replaced; `next_token` masks nothing and labels each token with the next.
        static_masks: epochs after which order, pieces and masks repeat; dropout does not. Default: they never do.
        mask_split: shares of the chosen tokens that become [MASK] (a similar word), become a random token, and stay.
        held_out_fraction: share of the documents kept for evaluation, chosen by the hash of their content.
        composition: how documents become sequences, and how often each source is read.
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
        """The largest mask rate of any micro-batch; the capacities are made for it."""
        return self.mask_rate if self.mask_rate_end is None else max(self.mask_rate, self.mask_rate_end)

    def rate_at(self, index: int) -> Fraction:
        """Return the mask rate of micro-batch `index`, an exact fraction, so that all ranks and workers agree."""
        begin = Fraction(self.mask_rate).limit_denominator(MASK_RATE_DENOMINATOR)
        if self.mask_rate_end is None:
            return begin
        end = Fraction(self.mask_rate_end).limit_denominator(MASK_RATE_DENOMINATOR)
        return begin + (end - begin) * min(index, self.mask_rate_over) / self.mask_rate_over

    def times_read(self, store: TokenStore) -> npt.NDArray[np.float64]:
        """Return how often an epoch reads each document of a store, (N,)."""
        weights = self.composition.source_weights(store.sources)
        return np.array(weights, dtype=np.float64)[store.source_of]

    def sample(self, store: TokenStore) -> Sequences | None:
        """Compose some thousand documents, spread evenly over those that an epoch reads.

        Both splits use the same sample, so their micro-batches have the same shapes. Returns None if the sizes of
        sequences follow from the lengths of documents.
        """
        compose = sampler(self.composition)
        often = np.cumsum(self.times_read(store) * (store.lengths > 0))
        if compose is None or not often.size or not often[-1]:
            return None
        places = np.linspace(0, often[-1], min(_SAMPLE, often.size), endpoint=False)
        chosen = np.searchsorted(often, places, side="right")
        chosen = chosen[np.argsort(store.source_of[chosen], kind="stable")]
        return compose(
            Block(
                documents=chosen,
                lengths=store.lengths[chosen].astype(np.int64),
                sources=store.source_of[chosen].astype(np.int64),
                readings=np.zeros(chosen.size, dtype=np.int64),
                ranks=np.arange(chosen.size),
                max_length=self.max_length,
                seed=0,
                text=store,
            )
        )

    def capacities(
        self,
        lengths: npt.NDArray[np.integer],
        mask_counts: npt.NDArray[np.int64],
        *,
        weights: npt.NDArray[np.float64] | None = None,
        sample: Sequences | None = None,
    ) -> Capacities:
        """Compute the capacities, with defaults where none are given.

        Args:
            lengths: tokens of every document of the store, without special ones, (N,).
            mask_counts: masked tokens of a piece of n tokens, special ones included, at index n, (L + 1,).
            weights: the result of `times_read`, (N,). Default: once.
            sample: the result of `sample`. Default: the even pieces of all documents.
        Raises:
            ConfigError: T, S, M or L is too small for one sequence.
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

    def count_tokens(
        self, store: TokenStore, sources: Sequence[Source], sample: Sequences | None, *, needed: int
    ) -> int:
        """Count the tokens of an epoch with their [CLS] and [SEP]; with a sample, extrapolate from it.

        Args:
            store: the documents.
            sources: those of the split.
            sample: the result of `sample`.
            needed: tokens of a micro-batch if the split must fill one, else 0.
        Raises:
            CorpusError: no documents, or fewer tokens than needed.
        """
        room = self.max_length - 2
        documents, counted = 0, Fraction(0)
        for source in sources:
            lengths = store.lengths[source.documents].astype(np.int64)
            documents += lengths.size if source.weight else 0
            specials = 2 * -(-lengths // room) if sample is None else 0
            counted += source.weight * int((lengths + specials).sum())
        if sample is not None:
            counted *= Fraction(int((sample.lengths + 1 + sample.opens).sum()), max(1, int(sample.lengths.sum())))
        tokens = int(counted)
        if not documents:
            raise CorpusError(
                f"stream: the {'train' if needed else 'held_out'} split must hold documents, none of "
                f"{store.lengths.size} is in it; add text, cut it into more documents when it is prepared (--split-at, "
                f"--blank-line-documents), or change data.held_out ({self.held_out_fraction}) or data.weights"
            )
        if needed and not tokens:
            raise CorpusError(
                f"stream: data.compose makes no sequence of the {documents} documents; they are too short for it, so "
                "join them to longer ones or choose another data.compose"
            )
        if tokens < needed:
            # a micro-batch holds one piece at least
            way_out = f", or lower train.micro_batch_tokens to at most {tokens}" if tokens >= self.max_length else ""
            raise CorpusError(
                f"stream: the corpus has {tokens} tokens in {documents} documents, fewer than one micro-batch of "
                f"{needed}; add text{way_out}"
            )
        return tokens

    def _fewest(self, tokens: int, mask_counts: npt.NDArray[np.int64]) -> tuple[int, int]:
        """Count the fewest slots for documents and for masked tokens that hold any sequence alone in a micro-batch."""
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
    """Count the even pieces of n tokens, special ones included, of all documents, at index n, (L + 1,)."""
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
    """Compute the slots that a micro-batch needs, a multiple of 16.

    Of each kind of piece, (kinds,): `sizes` tokens, `pieces` of them, and `each` the slots that one takes. With
    a = sum(each) / sum(sizes) over all pieces, a micro-batch of T `tokens` needs T a slots on average, times `more`. It
    holds about n = T / mean(sizes) pieces, so the standard deviation of the need is sqrt(n) that of each - a size.
    """
    count = pieces.sum()
    if not count:
        return 16
    share = (pieces * each).sum() / (pieces * sizes).sum()
    variance = (pieces * (each - share * sizes) ** 2).sum() / count
    drawn = tokens * count / (pieces * sizes).sum()
    return ceil((more * share * tokens + _DEVIATIONS * sqrt(drawn * variance) + 2) / 16) * 16
