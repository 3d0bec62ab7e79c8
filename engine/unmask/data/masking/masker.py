"""Masking of packed pieces, a function of (seed, piece, token): what is predicted, and what stands in its place.

For a piece of n tokens named by the 64-bit key (low, high), with t = 0 at its [CLS]:

    budget      = max(1, round(rate n)), ties to even, rate an exact fraction; n counts [CLS] and [SEP]
    priority(t) = word t mod 4 of philox(counter (t div 4, 0, low, high), key site_key(seed, SELECTION))
    token       : the `budget` tokens that come first by (priority(t), t)                 (Devlin et al. 2019)
    whole_word  : words by (priority of their first token, place), greedily while they fit, see `words`
    ngram, span : the same, words having the priority of their group, see `walk`           (Cui 2021; Joshi 2020)
    mac         : as ngram; similar words instead of [MASK], see `correction`              (Cui 2021)

and for each chosen token, or in `span` once for all tokens of the span, at its first:

    (r0, r1, ., .) = philox(counter (t, 0, low, high), key site_key(seed, REPLACEMENT))
    r0 <  A          -> [MASK]                                    A = round(2**32 split[0])
    A <= r0 < B      -> ordinary_ids[(r1 * len(ordinary_ids)) >> 32]    B = round(2**32 (split[0] + split[1]))
    B <= r0          -> stays as it is; it is predicted all the same

with r1 always the token's own. A token whose id is special ([PAD], [UNK], [CLS], [SEP], [MASK]) is never chosen, nor
is a word that holds one; a piece without a candidate, or whose every word is longer than its budget, predicts nothing.
Nothing depends on the packed row, so a piece is masked the same wherever it lies, and another backend that follows
these lines is equal bit for bit. `rate` may differ between calls: that is how a schedule is made.

Cost, one core, 16,384 tokens a call: about 80 ns a token for `token`, three to six times that for the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unmask.data.masking.correction import SimilarWords, choose_correction, replace_by_similar
from unmask.data.masking.row import Indices, Row
from unmask.data.masking.row import Words as Draws
from unmask.data.masking.tokens import choose_tokens
from unmask.data.masking.walk import NGRAM, SPAN, heads_of
from unmask.data.masking.words import Words, take_words
from unmask.data.randomness import REPLACEMENT, SELECTION, WALK, site_key
from unmask.errors import ConfigError

__all__ = ["MASK_RATE_DENOMINATOR", "MaskRule", "Masked", "Masker", "Masking"]

Masking = Literal["token", "whole_word", "ngram", "span", "mac"]

MASK_RATE_DENOMINATOR = 1 << 16
"""A rate is the nearest fraction with no larger denominator, so that counts are exact."""

_32 = np.uint64(32)
_LAWS: Mapping[Masking, tuple[float, ...]] = {"ngram": NGRAM, "span": SPAN, "mac": NGRAM}


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


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRule:
    """The rule of `token` and `whole_word` in plain arrays, for another backend that chooses the same tokens.

    Attributes:
        keys: of selection and of replacement, int64 (2,).
        special: ids that are never chosen, bool (V,).
        ordinary: ids that a random replacement is drawn from, int64 (O,).
        rate, split, mask_id: as `Masker` takes them.
        whole_words: whether words are chosen, else tokens.
    """

    keys: npt.NDArray[np.int64]
    special: npt.NDArray[np.bool_]
    ordinary: npt.NDArray[np.int64]
    rate: float
    split: tuple[float, float, float]
    mask_id: int
    whole_words: bool


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
        masking: Masking = "token",
        similar_words: SimilarWords | None = None,
    ) -> None:
        """Fix the rule.

        Args:
            seed: 64-bit seed of the run.
            rate: share of a piece's tokens to predict, in (0, 1]; read as the nearest fraction with a
                denominator of at most 65,536, so that 0.15 is 3/20 exactly.
            split: shares of what is chosen that become [MASK] (with `mac`: a similar word), become random ordinary
                tokens, stay; they sum to 1.
            special_ids: ids that are never chosen.
            ordinary_ids: ids that a random replacement is drawn from.
            mask_id: id of [MASK].
            vocab_size: number of ids.
            masking: how tokens are chosen and replaced.
            similar_words: the table of `mac`, which needs one.
        Raises:
            ConfigError: a rate or split out of range, no ordinary ids, or `mac` without a table.
        """
        if not 0 < rate <= 1:
            raise ConfigError(f"masking: data.mask_rate must lie in (0, 1], got {rate}")
        if len(split) != 3 or min(split) < 0 or abs(sum(split) - 1) > 1e-6:
            raise ConfigError(f"masking: data.mask_split must be three shares that sum to 1, got {tuple(split)}")
        self._ordinary = np.asarray(ordinary_ids, dtype=np.int64)
        if not self._ordinary.size and split[1] > 0:
            raise ConfigError("masking: ordinary_ids must hold the ids that a random replacement draws, got none")
        if (masking == "mac") != (similar_words is not None):
            raise ConfigError(
                f"masking: data.masking is {masking!r} {'without' if similar_words is None else 'with'} a table of "
                "similar words; give data.similar_words together with data.masking 'mac' alone"
            )
        self.masking: Masking = masking
        self._rate = _fraction(rate)
        self._split = (split[0], split[1], split[2])
        self._thresholds = (
            np.uint64(round(2**32 * split[0])),
            np.uint64(round(2**32 * min(1.0, split[0] + split[1]))),
        )
        self._selection = site_key(seed, SELECTION)
        self._replacement = site_key(seed, REPLACEMENT)
        self._walk = site_key(seed, WALK)
        self._mask_id = mask_id
        self._similar = similar_words
        self._special = np.zeros(vocab_size, dtype=bool)
        self._special[np.asarray(special_ids, dtype=np.int64)] = True

    @property
    def rule(self) -> MaskRule:
        """The rule, for `unmask_kernels.masking`.

        Raises:
            ConfigError: tokens are chosen in a way that only this class knows.
        """
        if self.masking not in ("token", "whole_word"):
            raise ConfigError(
                f"masking: data.masking must be 'token' or 'whole_word' to be made on the device, got "
                f"{self.masking!r}; set data.mask_on to 'host'"
            )
        words = [low | high << 32 for low, high in (self._selection, self._replacement)]
        return MaskRule(
            keys=np.array(words, dtype=np.uint64).view(np.int64),
            special=self._special,
            ordinary=self._ordinary,
            rate=float(self._rate),
            split=self._split,
            mask_id=self._mask_id,
            whole_words=self.masking == "whole_word",
        )

    def counts(self, lengths: npt.ArrayLike, *, rate: float | Fraction | None = None) -> npt.NDArray[np.int64]:
        """Tokens chosen in pieces of `lengths` tokens with [CLS] and [SEP], if no content token is special.

        This is what a micro-batch reserves; text that spells a special token lowers the true count where too
        few candidates are left, and whole words may leave a remainder that none of them fits.
        """
        share = self._rate if rate is None else _fraction(rate)
        n = np.asarray(lengths, dtype=np.int64)
        whole, rest = np.divmod(n * share.numerator, share.denominator)
        # Python's round: a half goes to the even neighbour.
        up = (2 * rest > share.denominator) | ((2 * rest == share.denominator) & (whole % 2 == 1))
        counts: npt.NDArray[np.int64] = np.minimum(np.maximum(whole + up, 1), np.maximum(n - 2, 0))
        return counts

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
            ids: token ids with [CLS] and [SEP], (N,), any unsigned or signed integer type.
            lengths: tokens of each piece, (P,), all positive, sum N.
            keys: names of the pieces, (P,), uint64, or int64 with the same bits.
            word_starts: True where a token begins a word, (N,); `token` does without.
            rate: share of the tokens to predict here; default: the one of the constructor.
        Raises:
            ValueError: no word starts, where words are chosen.
        """
        row = Row.of(ids, lengths, keys, self._special)
        budgets = self.counts(row.sizes, rate=rate)
        priorities = row.priorities(self._selection)
        out = ids.copy()
        if self.masking == "token":
            rows = choose_tokens(row, budgets, priorities)
            out[rows] = self._corrupt(row, rows)
            return Masked(ids=out, rows=rows, labels=ids[rows].astype(np.int64))
        if word_starts is None:
            raise ValueError(f"masking: {self.masking!r} needs word_starts, where words begin in the row, got none")
        words = Words.of(row, word_starts)
        heads = np.arange(words.first.size)
        if self.masking in _LAWS:
            heads = heads_of(words, row.draws(words.first, self._walk)[0], _LAWS[self.masking])
        order = priorities[words.first[heads]]
        if self._similar is not None:
            kinds = self._kinds(row.draws(words.first, self._replacement)[0])
            fate = choose_correction(row, words, order, budgets, kinds, self._similar)
            rows = words.rows(fate.chosen)
            out[rows] = replace_by_similar(row, words, rows, fate, self._similar, self._random(row, rows))
        else:
            rows = words.rows(take_words(words, order, budgets))
            leads = words.first[heads][words.of_token[rows]] if self.masking == "span" else rows
            out[rows] = self._corrupt(row, rows, leads)
        return Masked(ids=out, rows=rows, labels=ids[rows].astype(np.int64))

    def _corrupt(self, row: Row, rows: Indices, leads: Indices | None = None) -> Indices:
        """What the chosen tokens become; `leads` are the tokens whose draws say which kind."""
        own = row.draws(rows, self._replacement)
        kinds = self._kinds(own[0] if leads is None or leads is rows else row.draws(leads, self._replacement)[0])
        out = np.where(kinds == 0, self._mask_id, row.ids[rows].astype(np.int64))
        return np.where(kinds == 1, self._ordinary_of(own[1]), out) if self._ordinary.size else out

    def _kinds(self, draws: Draws) -> npt.NDArray[np.int8]:
        """0: replaced, 1: random, 2: kept."""
        to_mask, to_random = self._thresholds
        return (draws >= to_mask).astype(np.int8) + (draws >= to_random)

    def _random(self, row: Row, rows: Indices) -> Indices:
        return self._ordinary_of(row.draws(rows, self._replacement)[1])

    def _ordinary_of(self, draws: Draws) -> Indices:
        return self._ordinary[((draws * np.uint64(self._ordinary.size)) >> _32).astype(np.int64)]


def _fraction(rate: float | Fraction) -> Fraction:
    return Fraction(rate).limit_denominator(MASK_RATE_DENOMINATOR)
