"""A table of similar words for a store: the nearest words, by word vectors, of as many tokens.

    similarity(a, b) = cosine of their vectors, over all pairs of words of one length, in blocks of BLOCK words

Masking needs a similar word of equal length, so the others are not even compared. The vectors decide what the nearest
word is; antonyms and siblings ("north", "south") are frequent.

Memory: 4 bytes a dimension and word, and 4 BLOCK bytes a word. Cost: words^2 dimensions multiplications.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unmask.data.masking.similar_words import SimilarWords
from unmask.data.masking.store_words import StoreWords, count_words
from unmask.data.masking.word_vectors import Vectors, read_vectors, require_gensim, train_vectors
from unmask.data.text.words import ideographs
from unmask.errors import CorpusError
from unmask.paths import as_typed

if TYPE_CHECKING:
    from unmask.data.store import Store

__all__ = ["Neighbours", "nearest_words", "nearest_words_of_equal_length", "write_similar_words"]

_log = logging.getLogger(__name__)

BLOCK = 512

MOST_VECTORS = 1_000_000
"""Vectors that are read of a file, the first; files begin with their most frequent words."""

Neighbours = list[tuple[int, float]]
"""Numbers of other words with their similarity, the most similar first."""


def nearest_words(vectors: Vectors, *, neighbours: int) -> Iterator[tuple[int, Neighbours]]:
    """Yield each word, as its row, with its nearest others.

    Args:
        vectors: (N, D), fp32; words with a vector of zeros are left out.
        neighbours: number to find for each word, at least 1.
    """
    norms = np.linalg.norm(vectors, axis=1)
    used = np.flatnonzero(norms > 0)
    unit = vectors[used] / norms[used, None]
    count = min(neighbours, used.size - 1)
    if count < 1:
        return
    for first in range(0, used.size, BLOCK):
        last = min(first + BLOCK, used.size)
        scores = unit[first:last] @ unit.T
        scores[np.arange(last - first), np.arange(first, last)] = -np.inf
        near = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        for row, candidates in enumerate(near):
            ordered = candidates[np.lexsort((candidates, -scores[row, candidates]))]
            yield int(used[first + row]), [(int(used[other]), float(scores[row, other])) for other in ordered]


def nearest_words_of_equal_length(words: StoreWords, vectors: Vectors, *, neighbours: int) -> dict[int, Neighbours]:
    """Return the nearest words of as many tokens for each word that has one, by its number.

    Args:
        words: W words.
        vectors: (W, D), fp32, zeros for a word without a vector.
        neighbours: as in `nearest_words`.
    """
    sizes = np.array([len(ids) for ids in words.ids])
    found: dict[int, Neighbours] = {}
    for size in np.unique(sizes):
        group = np.flatnonzero(sizes == size)
        for row, near in nearest_words(vectors[group], neighbours=neighbours):
            found[int(group[row])] = [(int(group[other]), score) for other, score in near]
    return found


def write_similar_words(
    store: Store,
    table: Path,
    *,
    vectors: Path | None = None,
    words: int = 30_000,
    neighbours: int = 5,
    min_count: int = 5,
    tokens: int = 100_000_000,
    epochs: int = 5,
    seed: int = 1,
) -> SimilarWords:
    """Write a table of similar words for a store and return it, as masking reads it.

    The same arguments give the same table on one machine.

    Args:
        store: its words are those of the table.
        table: file to write, a line 'word<TAB>neighbour:0.83 ...' for each word, the most frequent first.
        vectors: file of word vectors. Default: they are trained on the store.
        words: number of the most frequent words to compare.
        neighbours: number of neighbours to write for a word. Masking takes the first.
        min_count: occurrences that a word needs.
        tokens: read at most about this many tokens of the store, of documents spread evenly over it.
        epochs, seed: of the training.
    Raises:
        CorpusError: `table` exists, the store has no words to compare, or the vectors cannot be read.
        StoreError, TokenizerError: the store has no tokenizer, or another one.
        UnmaskError: gensim is not installed.
    """
    if table.is_dir():
        raise CorpusError(
            f"similar-words: {table} is a folder; give the name of a file, {as_typed(table / 'similar.tsv')}"
        )
    if table.exists():
        raise CorpusError(f"similar-words: {table} exists; give another name, or remove it: rm {as_typed(table)}")
    require_gensim()
    table.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = store.load_tokenizer()
    found = count_words(store, tokenizer, most=words, min_count=min_count, tokens=tokens)
    share = found.counts.sum() / found.occurrences
    _log.info(f"{len(found.spelled):,} words of at least {min_count} occurrences, {share:.1%} of the text")
    if len(found.spelled) < 2:
        raise CorpusError(
            f"similar-words: {store.folder} must have two words of at least {min_count} occurrences, has "
            f"{len(found.spelled)}; lower --min-count, or prepare more text"
        )
    _warn_of_single_characters(found, store)
    if vectors is None:
        rows = train_vectors(store, found, epochs=epochs, seed=seed)
    else:
        rows = read_vectors(vectors, found, tokenizer, most=MOST_VECTORS)
    near = nearest_words_of_equal_length(found, rows, neighbours=neighbours)
    if not near:
        raise CorpusError(
            f"similar-words: two words of {store.folder} that have as many tokens must have vectors, none have; give "
            "vectors of the language of the store, or leave --vectors out to train them on it"
        )
    _write(table, found.spelled, near)
    covered = found.counts[sorted(near)].sum() / found.occurrences
    _log.info(f"{len(near):,} of them have a similar word of as many tokens; they make up {covered:.1%} of the text")
    return SimilarWords.load(table, tokenizer)


def _write(table: Path, spelled: list[str], near: dict[int, Neighbours]) -> None:
    """Write the table, whole or not at all."""
    with table.open("x", encoding="utf-8") as out:
        try:
            for number in sorted(near):
                others = " ".join(f"{spelled[other]}:{score:.2f}" for other, score in near[number])
                out.write(f"{spelled[number]}\t{others}\n")
            out.flush()
        except BaseException:
            table.unlink()
            raise


def _warn_of_single_characters(words: StoreWords, store: Store) -> None:
    """Warn if the words of a Chinese store are its characters."""
    single = [len(word) == 1 and bool(ideographs(word)[0]) for word in words.spelled]
    if not store.segmenter and np.mean(single) > 0.5:
        _log.warning(
            f"{store.folder} was prepared without a segmenter, so each Chinese character is a word; prepare the text "
            "with --segmenter chinese to have words"
        )
