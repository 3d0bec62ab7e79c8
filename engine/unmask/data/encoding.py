"""From texts to tokens with sentence and word starts: the part of `prepare` that takes time, one batch at a time.

A text is cleaned, cut into sentences, and encoded sentence by sentence, which is exact (a sentence ends where a word
ends) and marks the sentence starts for free. N documents, T tokens. The result is a function of each text alone:
batches and the process that encodes them do not show in it. Cost: 1 MB or more of English or Chinese a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.cleaning import KINDS, Normalisation, clean
from unmask.data.sentences import sentence_starts
from unmask.data.store_writer import content_hash

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unmask.data.tokenizer import Tokenizer
    from unmask.data.words import Segmenter

__all__ = ["EncodedBatch", "TextEncoder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedBatch:
    """The tokens of N documents one after the other.

    Args:
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

    Args:
        tokenizer: the tokenizer.
        segmenter: what joins ideographs to words; None makes each a word.
        normalisation: Unicode normalisation before all else.
    """

    tokenizer: Tokenizer
    segmenter: Segmenter | None = None
    normalisation: Normalisation = "none"

    def __call__(self, texts: Sequence[str]) -> EncodedBatch:
        """Encodes the texts.

        Raises:
            CorpusError: the words of the segmenter do not join up to the text.
        """
        cleaned = [clean(text, self.normalisation) for text in texts]
        cuts = [_cuts(text, self.tokenizer.isolates_punctuation) for text, _ in cleaned]
        bounds = [pair for cut in cuts for pair in pairwise(cut)]
        owner = np.repeat(np.arange(len(cuts)), [max(0, len(cut) - 1) for cut in cuts])
        sentences = [cleaned[text].text[start:end] for text, (start, end) in zip(owner, bounds, strict=True)]
        if self.segmenter is None:
            encoded = self.tokenizer.encode_batch(sentences)
        else:
            encoded, places = self.tokenizer.encode_with_offsets(sentences)
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), np.uint32, int(sizes.sum()))
        sentence_first = np.cumsum(sizes) - sizes
        sentence_flags = np.zeros(len(ids), np.bool_)
        # a sentence of nothing but characters that the tokenizer drops has no token to mark
        sentence_flags[sentence_first[sizes > 0]] = True
        words = self.tokenizer.word_starts(ids)
        if self.segmenter is not None:
            joined = [self.segmenter.continues(text, cut) for (text, _), cut in zip(cleaned, cuts, strict=True)]
            # a token's character, counted from the first text's first one
            before = np.cumsum([0, *(len(text) for text, _ in cleaned)])
            origin = before[owner] + np.array([start for start, _ in bounds], np.int64)
            at = np.fromiter(chain.from_iterable(places), np.int64, len(ids)) + np.repeat(origin, sizes)
            words &= ~np.concatenate([*joined, np.zeros(1, np.bool_)])[at]
        lengths = np.bincount(owner, weights=sizes, minlength=len(texts)).astype(np.int64)
        return EncodedBatch(
            ids=ids,
            word_starts=words,
            sentence_starts=sentence_flags,
            lengths=lengths,
            content_hashes=np.array([content_hash(text) for text in texts], np.uint64),
            removed=np.array([removed for _, removed in cleaned], np.int64).reshape(-1, len(KINDS)),
        )


def _cuts(text: str, isolates_punctuation: bool) -> list[int]:
    """Offsets between which to encode: sentence starts, where a word certainly ends, and the end of the text."""
    starts = sentence_starts(text)
    if not isolates_punctuation:
        starts = [start for start in starts if start == starts[0] or text[start - 1].isspace()]
    return [*starts, len(text)]
