"""Word vectors, by gensim: trained on the words of a store, or read from a file in word2vec's or GloVe's format.

Training is word2vec's skip-gram with negative samples (Mikolov et al. 2013, arXiv:1310.4546). MacBERT's table came from
word2vec too. One thread trains, so the same store, words and seed give the same vectors on one machine.

gensim is the extra `vectors`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unmask.data.masking.store_words import StoredText, StoreWords, sentences
from unmask.errors import CorpusError, UnmaskError

if TYPE_CHECKING:
    from unmask.data.tokenizer import Tokenizer

__all__ = ["Vectors", "load_vectors", "read_vectors", "require_gensim", "train_vectors"]

Vectors = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)

_DIMENSIONS = 100


def require_gensim() -> None:
    """Raise UnmaskError if gensim is not installed."""
    if importlib.util.find_spec("gensim") is None:
        raise UnmaskError("word vectors need gensim; pip install 'unmask[vectors]'")


class _Sentences:
    """The sentences of a store, which gensim reads once an epoch."""

    def __init__(self, store: StoredText, words: StoreWords) -> None:
        self._store, self._words = store, words

    def __iter__(self) -> Iterator[list[str]]:
        return sentences(self._store, self._words)


def train_vectors(store: StoredText, words: StoreWords, *, epochs: int, seed: int) -> Vectors:
    """Train a vector for each word, (W, 100).

    Args:
        store: the store that the words are from.
        words: at least one.
        epochs: readings of `words.documents`.
        seed: of the first vectors and the negative samples.
    """
    models = _gensim("models.word2vec")
    model = models.Word2Vec(vector_size=_DIMENSIONS, sg=1, min_count=1, workers=1, seed=seed)
    model.build_vocab_from_freq(dict(zip(words.spelled, words.counts.tolist(), strict=True)))
    corpus = _Sentences(store, words)
    model.train(corpus, total_words=int(words.counts.sum()), epochs=epochs)
    vectors: Vectors = model.wv[words.spelled]
    return vectors


def read_vectors(path: Path, words: StoreWords, tokenizer: Tokenizer, *, most: int) -> Vectors:
    """Read the vectors of words, (W, D); a word that the file lacks has a vector of zeros.

    A word of the file is a word of the store if the tokenizer makes the same tokens of both, so an uncased store finds
    "Paris" for "paris"; the first such word counts.

    Args:
        path: word2vec (text or binary) or GloVe; also compressed, as .gz or .bz2.
        words: of the store.
        tokenizer: of the store.
        most: read this many vectors, the first of the file. Files begin with their most frequent words.
    Raises:
        CorpusError: no such file, or not in a known format.
    """
    spelled, vectors = load_vectors(path, most, otherwise="leave --vectors out to train vectors on the store")
    number = {ids: index for index, ids in reversed(list(enumerate(words.ids)))}
    rows = np.zeros((len(words.spelled), vectors.shape[1]), dtype=np.float32)
    seen: set[int] = set()
    for place, ids in enumerate(tokenizer.encode_batch(spelled)):
        index = number.get(tuple(ids))
        if index is not None and index not in seen:
            seen.add(index)
            rows[index] = vectors[place]
    _log.info(f"{path}: {len(spelled):,} vectors of {rows.shape[1]} numbers, {len(seen):,} for words of the store")
    return rows


def load_vectors(path: Path, most: int, *, otherwise: str) -> tuple[list[str], Vectors]:
    """Read words and their vectors, W words and (W, D).

    Args:
        path: word2vec (text or binary) or GloVe; also compressed, as .gz or .bz2.
        most: read this many vectors, the first of the file. Files begin with their most frequent words.
        otherwise: what an error proposes besides another file.
    Raises:
        CorpusError: no such file, or not in a known format.
        UnmaskError: gensim is not installed.
    """
    keyed = _gensim("models.keyedvectors").KeyedVectors
    empty = CorpusError(f"word vectors: {path} holds no words; give word2vec or GloVe vectors")
    try:
        header, first = _first_lines(path)
        if not header:
            raise empty
        has_header = len(header) == 2
        is_text = not has_header or all(map(_is_number, first[-int(header[1]) :]))
        found = keyed.load_word2vec_format(
            str(path), binary=not is_text, no_header=not has_header, limit=most, unicode_errors="replace"
        )
    except CorpusError:
        raise
    except FileNotFoundError:
        raise CorpusError(f"word vectors: there is no file {path}; give the file of the vectors") from None
    # gensim raises errors of many classes for a file of another format
    except Exception as error:
        raise CorpusError(
            f"word vectors: {path} must be word2vec (text or binary) or GloVe, also as .gz or .bz2; gensim cannot read "
            f"it ({error}); give such a file, or {otherwise}"
        ) from error
    if not found.index_to_key:
        raise empty
    return list(found.index_to_key), found.vectors


def _first_lines(path: Path) -> tuple[list[bytes], list[bytes]]:
    """Return the fields of the first two lines."""
    with _gensim("utils").open(str(path), "rb") as lines:
        return lines.readline(1 << 16).split(), lines.readline(1 << 16).split()


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _gensim(module: str) -> Any:
    require_gensim()
    return importlib.import_module(f"gensim.{module}")
