"""Masking of packed pieces, a function of (seed, piece, token): what is predicted, and what replaces it.

For a piece of n tokens with the 64-bit key (low, high), t = 0 at its [CLS]:

    budget      = max(1, round(rate n)), ties to even, rate an exact fraction; n counts [CLS] and [SEP]
    priority(t) = word t mod 4 of philox(counter (t div 4, 0, low, high), key site_key(seed, SELECTION))
    token       : the `budget` tokens that come first by (priority(t), t)                 (Devlin et al. 2019)
    whole_word  : words by (priority of their first token, place), each taken if it still fits, see `selection`
    ngram, span : the same; the words of a group share its priority, see `selection`    (Cui 2021; Joshi 2020)
    mac         : as ngram; similar words instead of [MASK], see `correction`              (Cui 2021)

Each chosen token is replaced by its own draw; in `span` all tokens of a span follow the draw at its first token:

    (r0, r1, ., .) = philox(counter (t, 0, low, high), key site_key(seed, REPLACEMENT))
    r0 <  A          -> [MASK]                                    A = round(2**32 split[0])
    A <= r0 < B      -> ordinary_ids[(r1 * len(ordinary_ids)) >> 32]    B = round(2**32 (split[0] + split[1]))
    B <= r0          -> unchanged, and predicted all the same

r1 is always the token's own. A token whose id is special ([PAD], [UNK], [CLS], [SEP], [MASK]) is never chosen, nor is
a word that holds one. A piece predicts nothing if it has no candidate, or if all its words exceed its budget. Nothing
depends on where a piece lies in the packed row, so another backend that follows these lines gives the same bits.
`rate` may differ from call to call; a schedule of the mask rate uses this.

`NextToken` takes the place of a `Masker` for a causal language model: nothing is masked, and each token predicts the
next one.

Cost, one core, 16,384 tokens a call: about 80 ns a token for `token`, three to six times that for the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unmask.config.schema import MaskingConfig
from unmask.data.masking.correction import SimilarWords, choose_correction, replace_by_similar
from unmask.data.masking.selection import NGRAM, SPAN, Indices, Row, Words, choose_tokens, group_heads, take_words
from unmask.data.randomness import REPLACEMENT, SELECTION, WALK, Uint64Array, site_key
from unmask.errors import ConfigError

__all__ = ["MASK_RATE_DENOMINATOR", "MaskRule", "Masked", "Masker", "NextToken"]

MASK_RATE_DENOMINATOR = 1 << 16
"""A rate is read as the nearest fraction with at most this denominator, so that counts are exact."""

_32 = np.uint64(32)
_LAWS: Mapping[str, tuple[float, ...]] = {"ngram": NGRAM, "span": SPAN, "mac": NGRAM}


class Masked(NamedTuple):
    """A packed row of N tokens after masking.

    Attributes:
        ids: corrupted ids, (N,), dtype of the input.
        rows: of the tokens to predict, ascending, int64 (m,).
        labels: their original ids, int64 (m,).
    """

    ids: npt.NDArray[Any]
    rows: Indices
    labels: Indices


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRule:
    """The rule of `token` and `whole_word` in plain arrays, for another backend that chooses the same tokens.

    Attributes:
        keys: Philox keys of selection and of replacement, int64 (2,).
        special: ids that are never chosen, bool (V,).
        ordinary: ids that a random replacement is drawn from, int64 (O,).
        rate, split, mask_id: as in `Masker`.
        whole_words: choose whole words instead of tokens.
    """

    keys: npt.NDArray[np.int64]
    special: npt.NDArray[np.bool_]
    ordinary: npt.NDArray[np.int64]
    rate: float
    split: tuple[float, float, float]
    mask_id: int
    whole_words: bool


class Masker:
    """Chooses tokens of packed pieces and replaces them."""

    def __init__(
        self,
        config: MaskingConfig,
        *,
        seed: int,
        special_ids: npt.ArrayLike,
        ordinary_ids: npt.ArrayLike,
        mask_id: int,
        vocab_size: int,
        similar_words: SimilarWords | None = None,
    ) -> None:
        """Set the rule.

        Args:
            config: what is chosen and how it is replaced. Its rate is read as the nearest fraction with a denominator
                of at most 65,536, so that 0.15 is 3/20 exactly.
            seed: 64-bit seed of the run.
            special_ids: ids that are never chosen, (s,).
            ordinary_ids: ids that a random replacement is drawn from, (O,).
            mask_id: id of [MASK].
            vocab_size: number of ids, V.
            similar_words: the table that `mac` needs.
        Raises:
            ConfigError: no ordinary ids, or `mac` without a table.
        """
        split = config.split
        self._ordinary = np.asarray(ordinary_ids, dtype=np.int64)
        if not self._ordinary.size and split[1] > 0:
            raise ConfigError("masking: ordinary_ids must hold the ids that a random replacement draws, got none")
        if (config.strategy == "mac") != (similar_words is not None):
            raise ConfigError(
                f"masking: strategy is {config.strategy!r} {'without' if similar_words is None else 'with'} a table of "
                "similar words; give masking.similar_words together with strategy 'mac' alone"
            )
        self.strategy = config.strategy
        self._rate = _fraction(config.rate)
        self._split = split
        bounds = split[0], min(1.0, split[0] + split[1])
        self._thresholds = [np.uint64(round(2**32 * bound)) for bound in bounds]
        self._selection = site_key(seed, SELECTION)
        self._replacement = site_key(seed, REPLACEMENT)
        self._walk = site_key(seed, WALK)
        self._mask_id = mask_id
        self._similar = similar_words
        self._special = np.zeros(vocab_size, dtype=bool)
        self._special[np.asarray(special_ids, dtype=np.int64)] = True

    @property
    def rule(self) -> MaskRule:
        """The rule as `unmask_kernels.masking` takes it.

        Raises:
            ConfigError: the strategy is neither `token` nor `whole_word`.
        """
        if self.strategy not in ("token", "whole_word"):
            raise ConfigError(
                f"masking: strategy must be 'token' or 'whole_word' to be made on the device, got {self.strategy!r}; "
                "set masking.place to 'host'"
            )
        keys = [low | high << 32 for low, high in (self._selection, self._replacement)]
        return MaskRule(
            keys=np.array(keys, dtype=np.uint64).view(np.int64),
            special=self._special,
            ordinary=self._ordinary,
            rate=float(self._rate),
            split=self._split,
            mask_id=self._mask_id,
            whole_words=self.strategy == "whole_word",
        )

    def counts(self, lengths: npt.ArrayLike, *, rate: float | Fraction | None = None) -> npt.NDArray[np.int64]:
        """Count the tokens to choose in each piece: the budget, and what a micro-batch reserves.

        The true count is lower in a piece with too few candidates, and where no whole word fits in what is left of
        the budget.

        Args:
            lengths: tokens of each piece with [CLS] and [SEP], (P,).
            rate: share of the tokens to predict. Default: the one of the constructor.
        Returns:
            int64 (P,).
        """
        share = self._rate if rate is None else _fraction(rate)
        n = np.asarray(lengths, dtype=np.int64)
        whole, rest = np.divmod(n * share.numerator, share.denominator)
        # Python's round: a half goes to the even neighbour.
        up = (2 * rest > share.denominator) | ((2 * rest == share.denominator) & (whole % 2 == 1))
        return np.minimum(np.maximum(whole + up, 1), np.maximum(n - 2, 0))

    def __call__(
        self,
        ids: npt.NDArray[Any],
        lengths: npt.ArrayLike,
        keys: npt.ArrayLike,
        word_starts: npt.NDArray[np.bool_] | None = None,
        *,
        rate: float | Fraction | None = None,
    ) -> Masked:
        """Mask a packed row of pieces.

        Args:
            ids: token ids with [CLS] and [SEP], (N,), any integer type.
            lengths: tokens of each piece, (P,), all positive, sum N.
            keys: of the pieces, (P,), uint64, or int64 with the same bits.
            word_starts: True where a token begins a word, (N,); `token` does not need them.
            rate: share of the tokens to predict. Default: the one of the constructor.
        Raises:
            ValueError: no word starts, where words are chosen.
        """
        row = Row.of(ids, lengths, keys, self._special)
        budgets = self.counts(row.sizes, rate=rate)
        priorities = row.priorities(self._selection)
        out = ids.copy()
        if self.strategy == "token":
            rows = choose_tokens(row, budgets, priorities)
            out[rows] = self._corrupt(row, rows, rows)
            return Masked(ids=out, rows=rows, labels=ids[rows].astype(np.int64))
        if word_starts is None:
            raise ValueError(f"masking: {self.strategy!r} needs word_starts, where words begin in the row, got none")
        words = Words.of(row, word_starts)
        heads = np.arange(words.first.size)
        if self.strategy in _LAWS:
            heads = group_heads(words, row.draws(words.first, self._walk)[0], _LAWS[self.strategy])
        order = priorities[words.first[heads]]
        if self._similar is not None:
            chosen, entries = choose_correction(row, words, order, budgets, self._similar)
            rows = words.rows(chosen)
            kinds = self._kinds(row.draws(words.first, self._replacement)[0])
            random = self._ordinary_of(row.draws(rows, self._replacement)[1])
            out[rows] = replace_by_similar(row, words, rows, kinds, entries, self._similar, random)
        else:
            rows = words.rows(take_words(words, order, budgets))
            leads = words.first[heads][words.of_token[rows]] if self.strategy == "span" else rows
            out[rows] = self._corrupt(row, rows, leads)
        return Masked(ids=out, rows=rows, labels=ids[rows].astype(np.int64))

    def _corrupt(self, row: Row, rows: Indices, leads: Indices) -> Indices:
        """Return the new ids of the chosen tokens `rows` (m,); the draws at `leads` (m,) decide how."""
        own = row.draws(rows, self._replacement)
        kinds = self._kinds(own[0] if leads is rows else row.draws(leads, self._replacement)[0])
        out = np.where(kinds == 0, self._mask_id, row.ids[rows].astype(np.int64))
        return np.where(kinds == 1, self._ordinary_of(own[1]), out) if self._ordinary.size else out

    def _kinds(self, draws: Uint64Array) -> npt.NDArray[np.int8]:
        """Read draws (m,): 0 for [MASK] or a similar word, 1 for a random token, 2 for unchanged."""
        to_mask, to_random = self._thresholds
        return (draws >= to_mask).astype(np.int8) + (draws >= to_random)

    def _ordinary_of(self, draws: Uint64Array) -> Indices:
        return self._ordinary[((draws * np.uint64(self._ordinary.size)) >> _32).astype(np.int64)]


class NextToken:
    """Labels each token with the next one of its document; used like a `Masker`, but masks nothing.

    A document of n tokens, [CLS] and [SEP] included, has n - 1 predictions: all its content and its [SEP].
    """

    def counts(self, lengths: npt.ArrayLike, *, rate: float | Fraction | None = None) -> npt.NDArray[np.int64]:
        """Count the predictions in documents of `lengths` (P,) tokens; `rate` has no effect."""
        return np.maximum(np.asarray(lengths, dtype=np.int64) - 1, 0)

    def __call__(
        self,
        ids: npt.NDArray[Any],
        lengths: npt.ArrayLike,
        keys: npt.ArrayLike,
        word_starts: npt.NDArray[np.bool_] | None = None,
        *,
        rate: float | Fraction | None = None,
    ) -> Masked:
        """Label a packed row; the arguments are those of `Masker`, but only `ids` and `lengths` have an effect."""
        last = np.cumsum(np.asarray(lengths, dtype=np.int64)) - 1
        followed = np.ones(ids.size, dtype=bool)
        followed[last] = False
        rows = np.flatnonzero(followed)
        return Masked(ids=ids, rows=rows, labels=ids[rows + 1].astype(np.int64))


def _fraction(rate: float | Fraction) -> Fraction:
    return Fraction(rate).limit_denominator(MASK_RATE_DENOMINATOR)
