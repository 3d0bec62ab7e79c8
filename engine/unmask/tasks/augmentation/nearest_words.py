"""The words with the nearest vectors, for words of several tokens: GloVe's, or any in word2vec's format.

    similarity(a, b) = cosine of their vectors

A word is looked up as it is written, then in small letters. Words without a letter are no candidates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unmask.data.masking.word_vectors import load_vectors
from unmask.tasks.augmentation.words import has_letter, in_case_of

__all__ = ["NearestWords"]


class NearestWords:
    """The vectors of a file.

    Args:
        path: word2vec (text or binary) or GloVe; also compressed, as .gz or .bz2.
        count: K, candidates of a word.
        most: vectors to read, the first of the file. Files begin with their most frequent words.
    Raises:
        CorpusError: no such file, not in a known format, or no word has a letter.
    """

    def __init__(self, path: Path, *, count: int, most: int) -> None:
        words, vectors = load_vectors(path, most, otherwise="leave --vectors out, and words of several tokens stay")
        lettered = np.array([has_letter(word) for word in words]) & (np.linalg.norm(vectors, axis=1) > 0)
        self._words = [words[place] for place in np.flatnonzero(lettered).tolist()]
        kept = vectors[lettered]
        self._vectors = kept / np.linalg.norm(kept, axis=1, keepdims=True)
        self._place = {word: place for place, word in reversed(list(enumerate(self._words)))}
        self._count = min(count, len(self._words) - 1)
        self._found: dict[str, list[str]] = {}

    def candidates(self, word: str) -> list[str]:
        """Return the nearest words, in the order of the file; none for a word without a vector."""
        if word in self._found:
            return self._found[word]
        spelling = word if word in self._place else word.lower()
        found: list[str] = []
        if spelling in self._place and self._count > 0:
            place = self._place[spelling]
            scores = self._vectors @ self._vectors[place]
            scores[place] = -np.inf
            near = np.sort(np.argpartition(-scores, self._count - 1)[: self._count])
            found = [self._words[other] for other in near.tolist()]
            if spelling != word:
                found = [in_case_of(word, other) for other in found]
        self._found[word] = found
        return found
