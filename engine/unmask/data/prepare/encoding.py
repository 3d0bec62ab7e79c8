"""From texts to tokens with sentence and word starts: the part of `prepare` that takes time, one batch at a time.

A text is cleaned, cut into sentences, and encoded sentence by sentence, which is exact (a sentence ends where a word
ends) and marks the sentence starts for free. Where a token or a rule of the tokenizer may reach across sentences
(`Tokenizer.may_be_cut`), the text is encoded whole, and a sentence starts at the first token at or behind its first
character; none starts inside a token or a word. N documents, T tokens. The result is a function of each text alone:
batches and the process that encodes them do not show in it. Cost: 1 MB or more of English or Chinese a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.text.cleaning import KINDS, Cleaned, Normalisation, clean
from unmask.data.text.sentences import sentence_starts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unmask.data.text.words import Segmenter
    from unmask.data.tokenizer import Placed, Tokenizer

__all__ = ["EncodedBatch", "TextEncoder", "content_hash"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedBatch:
    """The tokens of N documents one after the other.

    Attributes:
        ids: token ids without [CLS] and [SEP], (T,) uint32.
        word_starts: (T,) bool.
        sentence_starts: (T,) bool.
        lengths: tokens of each document, (N,) int64, sum T; 0 where a text gives none.
        content_hashes: `content_hash` of each text as it was read, (N,) uint64.
        removed: characters that cleaning removed, (N, 3) int64, by `cleaning.KINDS`.
    """

    ids: NDArray[np.uint32]
    word_starts: NDArray[np.bool_]
    sentence_starts: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    content_hashes: NDArray[np.uint64]
    removed: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoder:
    """All that decides which tokens a text becomes.

    Attributes:
        tokenizer: the tokenizer.
        segmenter: what joins ideographs to words; None makes each a word.
        normalisation: Unicode normalisation before all else.
    """

    tokenizer: Tokenizer
    segmenter: Segmenter | None = None
    normalisation: Normalisation = "none"

    def __call__(self, texts: Sequence[str]) -> EncodedBatch:
        """Encode the texts.

        Raises:
            CorpusError: the words of the segmenter do not join up to the text.
        """
        tokenizer = self.tokenizer
        cleaned = [clean(text, self.normalisation, tokenizer.seen_characters) for text in texts]
        starts = [sentence_starts(text) for text, _ in cleaned]
        # where to cut: what white space comes first is no sentence, and encoded all the same
        inner = [_cuts(text, begins, tokenizer) for (text, _), begins in zip(cleaned, starts, strict=True)]
        bounds = [
            pair for (text, _), cuts in zip(cleaned, inner, strict=True) for pair in pairwise([0, *cuts, len(text)])
        ]
        owner = np.repeat(np.arange(len(inner)), [len(cuts) + 1 for cuts in inner])
        parts = [cleaned[text].text[start:end] for text, (start, end) in zip(owner, bounds, strict=True)]
        placed: list[Placed] = []
        if tokenizer.may_be_cut and tokenizer.spells_words and self.segmenter is None:
            encoded = tokenizer.encode_batch(parts)
        else:
            placed = tokenizer.encode_with_places(parts)
            encoded = [part.ids for part in placed]
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), np.uint32, int(sizes.sum()))
        words = tokenizer.word_starts(ids)
        sentences = np.zeros(len(ids), np.bool_)
        # a sentence of nothing but characters that the tokenizer drops has no token to mark
        sentences[(np.cumsum(sizes) - sizes)[sizes > 0]] = True
        if placed:
            # characters are counted from the first text's first one
            before = np.cumsum([0, *(len(text) for text, _ in cleaned)])
            origin = np.repeat(before[owner] + np.array([start for start, _ in bounds], np.int64), sizes)
            places = np.concatenate([part.places for part in placed]) + origin[:, None]
            if not tokenizer.spells_words:
                words = _opens_word(placed, sizes)
            if self.segmenter is not None:
                words &= ~self._continues(cleaned, starts)[places[:, 0]]
                words |= _beside(ids, tokenizer.added_special_ids)
            if not tokenizer.may_be_cut:
                first = [start + place for start, begins in zip(before, starts, strict=False) for place in begins]
                found = _tokens_at("".join(text for text, _ in cleaned), places, np.array(first, np.int64))
                sentences[found[words[found]]] = True
        lengths = np.bincount(owner, weights=sizes, minlength=len(texts)).astype(np.int64)
        return EncodedBatch(
            ids=ids,
            word_starts=words,
            sentence_starts=sentences,
            lengths=lengths,
            content_hashes=np.array([content_hash(text) for text in texts], np.uint64),
            removed=np.array([removed for _, removed in cleaned], np.int64).reshape(-1, len(KINDS)),
        )

    def _continues(self, cleaned: Sequence[Cleaned], starts: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
        """Which characters of all texts, and one more, continue a word of the segmenter."""
        assert self.segmenter is not None
        isolates = self.tokenizer.isolates_punctuation
        joined = [
            self.segmenter.continues(text, [*_at_words(text, begins, isolates), len(text)])
            for (text, _), begins in zip(cleaned, starts, strict=True)
        ]
        return np.concatenate([*joined, np.zeros(1, np.bool_)])


def content_hash(text: str) -> int:
    """Return 64 bits that depend on the text alone: the same split whatever the tokenizer, order or machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _cuts(text: str, starts: Sequence[int], tokenizer: Tokenizer) -> Sequence[int]:
    """Offsets at which to cut before encoding: sentence starts but for the first, where a word certainly ends."""
    if not tokenizer.may_be_cut:
        return ()
    return _at_words(text, starts, tokenizer.isolates_punctuation)[1:]


def _at_words(text: str, starts: Sequence[int], isolates_punctuation: bool) -> Sequence[int]:
    """The sentence starts that begin a word: all, where every mark is a word, else those behind white space."""
    if isolates_punctuation:
        return starts
    return [start for start in starts if start == starts[0] or text[start - 1].isspace()]


def _tokens_at(text: str, places: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The tokens at which sentences start; a sentence that starts inside a token has none.

    Args:
        text: all texts.
        places: first and last character of each token in it, (T, 2), the latter exclusive.
        starts: first characters of sentences.
    """
    begins = places[:, 0].copy()
    # a token that takes the white space before it begins behind that
    for token in np.flatnonzero([text[begin : begin + 1].isspace() for begin in begins]):
        content = text[places[token, 0] : places[token, 1]]
        begins[token] += (len(content) - len(content.lstrip())) % max(1, len(content))
    found = np.searchsorted(begins, starts)
    # the end of the token before; 0 before the first
    ends = np.append(0, places[:, 1])[found]
    return found[(found < len(begins)) & (ends <= starts)]


def _opens_word(placed: Sequence[Placed], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tokens are the first of a word, by the numbers of the words."""
    numbers = np.concatenate([part.words for part in placed])
    opens = np.ones(len(numbers), np.bool_)
    opens[1:] = (numbers[1:] != numbers[:-1]) | (numbers[1:] < 0)
    first = np.cumsum(sizes) - sizes
    opens[first[sizes > 0]] = True
    return opens


def _beside(ids: NDArray[np.uint32], special: Sequence[int]) -> NDArray[np.bool_]:
    """Which tokens are special, or follow one that is: no word holds a special token and another."""
    found = np.isin(ids, special)
    found[1:] |= found[:-1].copy()
    return found
