"""Texts to tokens with sentence and word starts: the part of `prepare` that takes time.

A text is cleaned, cut into sentences and encoded sentence by sentence. The tokens are those of the whole text, since a
sentence ends where a word ends, and the first token of each sentence is known for free. If a token or a rule of the
tokenizer may reach across sentences (`Tokenizer.may_be_cut`), the text is encoded whole; a sentence then starts at the
first token at or after its first character, and never inside a token or a word.

N documents, T tokens. The result depends on each text alone, not on the batch or the process.
Cost: 1 MB or more of English or Chinese a second.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
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

_LONGEST_KEPT = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedBatch:
    """The tokens of N documents one after the other.

    Attributes:
        ids: token ids without [CLS] and [SEP], (T,) uint32.
        word_starts: (T,) bool.
        sentence_starts: (T,) bool.
        lengths: tokens of each document, (N,) int64, sum T; 0 for a text without tokens.
        content_hashes: `content_hash` of each text as it was read, (N,) uint64.
        removed: characters that cleaning removed, (N, 3) int64, in the order of `cleaning.KINDS`.
        unknown_words: the words of each document that became unknown tokens, with their counts, N of them.
    """

    ids: NDArray[np.uint32]
    word_starts: NDArray[np.bool_]
    sentence_starts: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    content_hashes: NDArray[np.uint64]
    removed: NDArray[np.int64]
    unknown_words: Sequence[Mapping[str, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoder:
    """Encodes texts. It holds all that decides which tokens a text becomes.

    Attributes:
        tokenizer: the tokenizer.
        segmenter: joins ideographs to words; None makes each a word.
        normalisation: Unicode normalisation before everything else.
    """

    tokenizer: Tokenizer
    segmenter: Segmenter | None = None
    normalisation: Normalisation = "none"

    def __call__(self, texts: Sequence[str]) -> EncodedBatch:
        """Encode N texts.

        Raises:
            CorpusError: the words of the segmenter do not join up to a text.
        """
        tokenizer = self.tokenizer
        cleaned = [clean(text, self.normalisation, tokenizer.seen_characters) for text in texts]
        starts = [sentence_starts(text) for text, _ in cleaned]
        # where to cut; white space before the first sentence is encoded too
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
        # a sentence whose characters the tokenizer drops has no token to mark
        sentences[(np.cumsum(sizes) - sizes)[sizes > 0]] = True
        if placed:
            # characters are counted from the start of the first text
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
            unknown_words=self._unknown_words(parts, placed, ids, sizes, owner, len(texts)),
        )

    def _unknown_words(
        self,
        parts: Sequence[str],
        placed: Sequence[Placed],
        ids: NDArray[np.uint32],
        sizes: NDArray[np.int64],
        owner: NDArray[np.int64],
        texts: int,
    ) -> list[Counter[str]]:
        """Return the words of each text that became unknown tokens, cut after `_LONGEST_KEPT` characters."""
        unknown = self.tokenizer.unk_id
        words: list[Counter[str]] = [Counter() for _ in range(texts)]
        some = np.unique(np.searchsorted(np.cumsum(sizes), np.flatnonzero(ids == unknown), side="right")).tolist()
        # without places, only these parts are encoded a second time
        again = [placed[one] for one in some] if placed else self.tokenizer.encode_with_places([parts[n] for n in some])
        for number, part in zip(some, again, strict=True):
            for start, end in part.places[np.array(part.ids) == unknown]:
                words[owner[number]][parts[number][start:end][:_LONGEST_KEPT]] += 1
        return words

    def _continues(self, cleaned: Sequence[Cleaned], starts: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
        """Return (C + 1,) bool for the C characters of all texts: True if one continues a word of the segmenter."""
        assert self.segmenter is not None
        isolates = self.tokenizer.isolates_punctuation
        joined = [
            self.segmenter.continues(text, [*_at_words(text, begins, isolates), len(text)])
            for (text, _), begins in zip(cleaned, starts, strict=True)
        ]
        return np.concatenate([*joined, np.zeros(1, np.bool_)])


def content_hash(text: str) -> int:
    """Return 64 bits that depend on the text alone: the held-out split is the same for any tokenizer and order."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _cuts(text: str, starts: Sequence[int], tokenizer: Tokenizer) -> Sequence[int]:
    """Return offsets at which to cut before encoding: sentence starts, without the first, where a word ends."""
    if not tokenizer.may_be_cut:
        return ()
    return _at_words(text, starts, tokenizer.isolates_punctuation)[1:]


def _at_words(text: str, starts: Sequence[int], isolates_punctuation: bool) -> Sequence[int]:
    """Return the sentence starts that begin a word: all, if every mark is a word, else those after white space."""
    if isolates_punctuation:
        return starts
    return [start for start in starts if start == starts[0] or text[start - 1].isspace()]


def _tokens_at(text: str, places: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the tokens at which sentences start; a sentence that starts inside a token has none.

    Args:
        text: all texts, joined.
        places: first character of each token and the one after its last, (T, 2).
        starts: first character of each sentence, (S,).
    """
    begins = places[:, 0].copy()
    # a token that includes white space begins after it
    for token in np.flatnonzero([text[begin : begin + 1].isspace() for begin in begins]):
        content = text[places[token, 0] : places[token, 1]]
        begins[token] += (len(content) - len(content.lstrip())) % max(1, len(content))
    found = np.searchsorted(begins, starts)
    # the end of the previous token; 0 before the first
    ends = np.append(0, places[:, 1])[found]
    return found[(found < len(begins)) & (ends <= starts)]


def _opens_word(placed: Sequence[Placed], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (T,) bool: True for the first token of a word, by the numbers of the words."""
    numbers = np.concatenate([part.words for part in placed])
    opens = np.ones(len(numbers), np.bool_)
    opens[1:] = (numbers[1:] != numbers[:-1]) | (numbers[1:] < 0)
    first = np.cumsum(sizes) - sizes
    opens[first[sizes > 0]] = True
    return opens


def _beside(ids: NDArray[np.uint32], special: Sequence[int]) -> NDArray[np.bool_]:
    """Return (T,) bool: True for special tokens and for those after one, which start a word too."""
    found = np.isin(ids, special)
    found[1:] |= found[:-1].copy()
    return found
