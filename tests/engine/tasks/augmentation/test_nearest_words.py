"""The nearest words by their vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advice import follow
from unmask.tasks.augmentation.nearest_words import NearestWords

pytest.importorskip("gensim")


def written(path: Path, vectors: dict[str, np.ndarray]) -> Path:
    path.write_text("".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in vectors.items()))
    return path


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {word: draw.normal(size=4).round(3) for word in ["the", ",", "mill", "river", "wall", "7", "Paris", "warm"]}


def test_candidates_are_those_of_the_largest_cosine(tmp_path: Path, vectors: dict[str, np.ndarray]) -> None:
    nearest = NearestWords(written(tmp_path / "v.txt", vectors), count=2, most=100)
    words = [word for word in vectors if word.isalpha()]
    for word in words:
        cosine = {
            other: vectors[word] @ vectors[other] / np.linalg.norm(vectors[word]) / np.linalg.norm(vectors[other])
            for other in words
            if other != word
        }
        assert set(nearest.candidates(word)) == set(sorted(cosine, key=cosine.__getitem__)[-2:])


def test_a_word_is_looked_up_in_small_letters_too(tmp_path: Path, vectors: dict[str, np.ndarray]) -> None:
    nearest = NearestWords(written(tmp_path / "v.txt", vectors), count=2, most=100)
    assert nearest.candidates("MILL") == [one.upper() for one in nearest.candidates("mill")]
    assert nearest.candidates("unheard") == []


def test_vectors_of_mixed_lengths_are_refused(tmp_path: Path, vectors: dict[str, np.ndarray]) -> None:
    good = dict(vectors)
    path = written(tmp_path / "v.txt", vectors | {"wall": np.ones(3)})
    follow(
        lambda: NearestWords(path, count=2, most=100),
        "word vectors: ... must be word2vec (text or binary) or GloVe, ... give such a file, or leave --vectors out, "
        "and words of several tokens stay",
        lambda: NearestWords(written(path, good), count=2, most=100),
    )
