"""A table of similar words for a store: the nearest words, by word vectors, of as many tokens.

    similarity(a, b) = cosine of their vectors, over all pairs of words of one length, in blocks of BLOCK words

Masking needs a similar word of equal length, so the others are not even compared. The vectors decide what the nearest
word is; antonyms and siblings ("north", "south") are frequent.

Memory: 4 bytes a dimension and word, and 4 BLOCK bytes a word. Cost: words^2 dimensions multiplications.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unmask.config.settings import check_argument
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.masking.store_words import StoreWords, count_words
from unmask.data.masking.word_vectors import Vectors, read_vectors, require_gensim, train_vectors
from unmask.data.store import Store
from unmask.data.text.words import ideographs
from unmask.errors import ConfigError, CorpusError
from unmask.paths import as_typed

__all__ = ["Neighbours", "nearest_words", "nearest_words_of_equal_length", "similar_words"]

_log = logging.getLogger(__name__)

BLOCK = 512

# of text to train vectors on
_LITTLE_TOKENS = 5_000_000

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

    Punctuation has only punctuation as neighbours.

    Args:
        words: W words.
        vectors: (W, D), fp32, zeros for a word without a vector.
        neighbours: as in `nearest_words`.
    """
    sizes = np.array([len(ids) for ids in words.ids])
    marks = np.array([not any(map(str.isalnum, word)) for word in words.spelled])
    found: dict[int, Neighbours] = {}
    # no comma is a similar word of "the"
    for size, is_mark in itertools.product(np.unique(sizes), (False, True)):
        group = np.flatnonzero((sizes == size) & (marks == is_mark))
        for row, near in nearest_words(vectors[group], neighbours=neighbours):
            found[int(group[row])] = [(int(group[other]), score) for other, score in near]
    return found


def similar_words(
    store: Store | str | Path,
    out: str | Path,
    *,
    vectors: str | Path | None = None,
    words: int = 30_000,
    neighbours: int = 5,
    min_count: int = 5,
    tokens: int = 100_000_000,
    epochs: int | None = None,
    seed: int | None = None,
) -> SimilarWords:
    """Write a table of similar words for a store and return it, as masking reads it.

    The same arguments give the same table on one machine.

    Example:
        >>> import unmask
        >>> table = unmask.similar_words("store", "similar.tsv")
        >>> changes = {"data.store": "store", "masking.similar_words": "similar.tsv"}
        >>> config = unmask.load_config("macbert-mini", changes)

    Args:
        store: a store, or its folder; its words are those of the table.
        out: file to write, a line 'word<TAB>neighbour:0.83 ...' for each word, the most frequent first.
        vectors: file of word vectors. Default: they are trained on the store.
        words: number of the most frequent words to compare.
        neighbours: number of neighbours to write for a word. Masking takes the first.
        min_count: occurrences that a word needs.
        tokens: read at most about this many tokens of the store, of documents spread evenly over it.
        epochs: readings of the text in training. Default: 5.
        seed: of the training. Default: 1.
    Raises:
        ConfigError: an argument is out of its range, or is of the training and `vectors` is given; a `ValueError`.
        CorpusError: `out` exists, the store has no words to compare, or the vectors cannot be read.
        StoreError, TokenizerError: the store has no tokenizer, or another one.
        UnmaskError: gensim is not installed.
    """
    for name, value in {"words": words, "neighbours": neighbours, "min_count": min_count, "tokens": tokens}.items():
        check_argument("similar-words", name, int, value, ge=1)
    check_argument("similar-words", "epochs", int | None, epochs, ge=1)
    for name, given in (("epochs", epochs), ("seed", seed)):
        if vectors is not None and given is not None:
            raise ConfigError(f"similar-words: --{name} is of the training, and --vectors reads vectors; leave one out")
    table = Path(out)
    if table.is_dir():
        raise CorpusError(
            f"similar-words: {table} is a folder; give the name of a file, {as_typed(table / 'similar.tsv')}"
        )
    if table.exists():
        raise CorpusError(f"similar-words: {table} exists; give another name, or remove it: rm {as_typed(table)}")
    require_gensim()
    store = Store.open(store) if isinstance(store, str | Path) else store
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
        _warn_of_little_text(store, found)
        rows = train_vectors(store, found, epochs=5 if epochs is None else epochs, seed=1 if seed is None else seed)
    else:
        rows = read_vectors(Path(vectors), found, tokenizer, most=MOST_VECTORS)
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


def _warn_of_little_text(store: Store, words: StoreWords) -> None:
    """Say that vectors of little text are rough."""
    tokens = int(store.lengths[words.documents].sum(dtype=np.int64))
    if tokens < _LITTLE_TOKENS:
        _log.warning(
            f"similar-words: the vectors are trained on {tokens:,} tokens, so neighbours are rough; "
            "prepare more text, or read vectors that were trained on more with --vectors FILE"
        )


def _warn_of_single_characters(words: StoreWords, store: Store) -> None:
    """Warn if the words of a Chinese store are its characters."""
    single = [len(word) == 1 and bool(ideographs(word)[0]) for word in words.spelled]
    if not store.segmenter and np.mean(single) > 0.5:
        _log.warning(
            f"{store.folder} was prepared without a segmenter, so each Chinese character is a word; prepare the text "
            "with --segmenter chinese to have words"
        )
