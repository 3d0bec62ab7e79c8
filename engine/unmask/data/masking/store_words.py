"""The words of a token store: counted, spelled, and as sentences for training word vectors.

A word is what masking takes for one: the tokens from one word start to the next. Words are told apart by a 64-bit hash
of their tokens, so that the store is read by NumPy alone; two words of one hash would count as one.

A word is usable in a table if the tokenizer makes the same tokens of its spelling. Words with special or unknown tokens
and words of more than MOST_TOKENS tokens are not.

Memory: about 200 bytes for each different word. Cost of a reading: about 3 M tokens a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from unmask.data.masking.similar_words import Indices, hash_words

if TYPE_CHECKING:
    from unmask.data.tokenizer import Tokenizer

__all__ = ["MOST_TOKENS", "StoreWords", "StoredText", "count_words", "sentences"]

MOST_TOKENS = 16
"""Tokens of the longest word that a table may hold."""

_BATCH_TOKENS = 1_000_000
# gensim ignores what lies behind this many words of a sentence
_SENTENCE_WORDS = 10_000


class StoredText(Protocol):
    """What this module reads of a store; `unmask.data.store.Store` is one."""

    @property
    def lengths(self) -> npt.NDArray[np.int32]: ...
    @property
    def special_ids(self) -> dict[str, int]: ...
    @property
    def added_special_ids(self) -> list[int]: ...
    def gather(
        self, documents: Indices, starts: Indices, lengths: Indices
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreWords:
    """The usable words of a store, the most frequent first.

    Attributes:
        spelled: W words.
        ids: their tokens.
        counts: how often each occurs in the documents that were read, (W,).
        hashes: hash of each, (W,) uint64.
        occurrences: occurrences of all words in these documents, usable or not.
        documents: the documents that were read, by their numbers.
    """

    spelled: list[str]
    ids: list[tuple[int, ...]]
    counts: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    occurrences: int
    documents: Indices


def count_words(
    store: StoredText, tokenizer: Tokenizer, *, most: int, min_count: int, tokens: int = 1 << 62
) -> StoreWords:
    """Count the words of a store and return the most frequent usable ones.

    Args:
        store: the tokens.
        tokenizer: the one that made them.
        most: number of words to return.
        min_count: occurrences that a word needs.
        tokens: read at most about this many tokens, of documents spread evenly over the store.
    """
    every = max(1, -(-int(store.lengths.sum(dtype=np.int64)) // tokens))
    documents = np.arange(0, len(store.lengths), every, dtype=np.int64)
    counts: dict[int, int] = {}
    tokens_of: dict[int, tuple[int, ...]] = {}
    occurrences = 0
    for ids, first, sizes, _ in _batches(store, documents):
        occurrences += first.size
        short = np.flatnonzero(sizes <= MOST_TOKENS)
        hashes, places, numbers = np.unique(
            hash_words(ids, first[short], sizes[short]), return_index=True, return_counts=True
        )
        for key, place, number in zip(hashes.tolist(), short[places].tolist(), numbers.tolist(), strict=True):
            if key not in counts:
                counts[key] = 0
                tokens_of[key] = tuple(ids[first[place] : first[place] + sizes[place]].tolist())
            counts[key] += number
    special = {*store.special_ids.values(), *store.added_special_ids}
    frequent = [key for key, number in counts.items() if number >= min_count and special.isdisjoint(tokens_of[key])]
    # words of one count are ordered by their tokens, so that the order of documents does not matter
    frequent.sort(key=lambda key: (-counts[key], tokens_of[key]))
    kept = list(_spelled([(key, tokens_of[key]) for key in frequent], tokenizer, most))
    keys = [key for key, _ in kept]
    return StoreWords(
        spelled=[spelling for _, spelling in kept],
        ids=[tokens_of[key] for key in keys],
        counts=np.array([counts[key] for key in keys], dtype=np.int64),
        hashes=np.array(keys, dtype=np.uint64),
        occurrences=occurrences,
        documents=documents,
    )


def sentences(store: StoredText, words: StoreWords) -> Iterator[list[str]]:
    """Yield the usable words of each document in their order, in lists of at most 10,000."""
    order = np.argsort(words.hashes)
    hashes, spelled = words.hashes[order], np.array(words.spelled, dtype=object)[order]
    for ids, first, sizes, document in _batches(store, words.documents):
        found = hash_words(ids, first, np.minimum(sizes, MOST_TOKENS + 1))
        place = np.minimum(np.searchsorted(hashes, found), hashes.size - 1)
        usable = np.flatnonzero((hashes[place] == found) & (sizes <= MOST_TOKENS))
        place, document = place[usable], document[usable]
        bounds = [0, *(np.flatnonzero(np.diff(document)) + 1).tolist(), place.size]
        for begin, end in pairwise(bounds):
            for start in range(begin, end, _SENTENCE_WORDS):
                yield spelled[place[start : min(end, start + _SENTENCE_WORDS)]].tolist()


def _batches(store: StoredText, documents: Indices) -> Iterator[tuple[npt.NDArray[Any], Indices, Indices, Indices]]:
    """Yield ids (T,), then for each word its first token, its number of tokens and its document, (W,) each."""
    documents = documents[store.lengths[documents] > 0]
    lengths = store.lengths[documents].astype(np.int64)
    batch = np.cumsum(lengths) // _BATCH_TOKENS
    for here in np.split(np.arange(documents.size), np.flatnonzero(np.diff(batch)) + 1):
        if not here.size:
            continue
        sizes = lengths[here]
        ids, starts = store.gather(documents[here], np.zeros_like(sizes), sizes)
        begins = np.cumsum(sizes) - sizes
        starts[begins] = True
        first = np.flatnonzero(starts)
        document = np.repeat(np.arange(here.size), sizes)[first]
        yield ids, first, np.diff(first, append=ids.size), document


def _spelled(words: list[tuple[int, tuple[int, ...]]], tokenizer: Tokenizer, most: int) -> Iterator[tuple[int, str]]:
    """Yield the first `most` words that their spelling encodes back to, with it."""
    found = 0
    for begin in range(0, len(words), 10_000):
        part = words[begin : begin + 10_000]
        # a decoder puts blanks between the ideographs of a word
        texts = ["".join(tokenizer.decode(ids).split()) for _, ids in part]
        for (key, ids), text, encoded in zip(part, texts, tokenizer.encode_batch(texts), strict=True):
            if tuple(encoded) == ids and found < most:
                found += 1
                yield key, text
        if found == most:
            return
