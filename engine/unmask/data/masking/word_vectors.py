"""A table of similar words from word vectors: word2vec (text or binary, with its header "words dimensions") or GloVe.

    similarity(a, b) = cosine of their vectors, over all pairs, in blocks of BLOCK words

`SimilarWords.load` reads the table. MacBERT's table came from word2vec vectors in the same way. The vectors decide what
the nearest word is; antonyms and siblings ("north", "south") are frequent.

Memory: 4 bytes a dimension and word, and 4 BLOCK bytes a word. Cost: words^2 dimensions multiplications.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unmask.errors import CorpusError

__all__ = ["read_vectors", "similar_words", "write_similar_words"]

Vectors = npt.NDArray[np.float32]

BLOCK = 512
_SPACE = b" "


class _NotVectors(ValueError):
    """A file breaks its format; the text says how, and the error made of it names the file."""


def read_vectors(path: str | Path) -> tuple[list[str], Vectors]:
    """Read words and their vectors (N, D); words that are not UTF-8 are left out.

    Raises:
        CorpusError: no such file, or not in a known format.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CorpusError(
            f"word vectors: {path} cannot be read ({error.strerror}); give the file of the vectors"
        ) from error
    line, _, rest = data.partition(b"\n")
    header = line.split()
    try:
        if len(header) != 2:
            size = max(1, len(header) - 1)
            entries = _text(data, size)
        else:
            count, size = int(header[0]), int(header[1])
            first = rest.partition(b"\n")[0].split()
            as_text = len(first) == size + 1 and all(_is_number(field) for field in first[1:])
            entries = _text(rest, size) if as_text else _binary(rest, count, size)
        kept = [(text, row) for word, row in entries if (text := _usable(word))]
        rows = np.array([row for _, row in kept], dtype=np.float32).reshape(-1, size)
    except (ValueError, IndexError) as error:
        raise CorpusError(
            f"word vectors: {path} must be word2vec (text or binary) or GloVe, but {error}; is it compressed?"
        ) from error
    if not kept:
        raise CorpusError(f"word vectors: {path} holds no words; give word2vec or GloVe vectors")
    return [text for text, _ in kept], rows


def similar_words(
    words: Sequence[str], vectors: Vectors, *, neighbours: int = 10, most: int | None = None
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Yield each word with its nearest others, the most similar first.

    Args:
        words: N words, the most frequent first.
        vectors: (N, D), fp32; words with a vector of zeros are left out.
        neighbours: number to find for each word, at least 1.
        most: find neighbours for this many words only, the first ones. Default: all.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1)
    count = min(neighbours, len(words) - 1)
    for first in range(0, len(words) if most is None else min(most, len(words)), BLOCK):
        last = min(first + BLOCK, len(words), len(words) if most is None else most)
        scores = unit[first:last] @ unit.T
        scores[np.arange(last - first), np.arange(first, last)] = -np.inf
        scores[:, norms[:, 0] == 0] = -np.inf
        near = np.argpartition(-scores, count - 1, axis=1)[:, :count] if count else np.zeros((last - first, 0), int)
        for row, candidates in enumerate(near):
            if norms[first + row, 0] == 0:
                continue
            ordered = candidates[np.lexsort((candidates, -scores[row, candidates]))]
            found = [(words[other], float(scores[row, other])) for other in ordered if np.isfinite(scores[row, other])]
            if found:
                yield words[first + row], found


def write_similar_words(
    vectors: str | Path, table: str | Path, *, neighbours: int = 10, most: int | None = None
) -> int:
    """Read a file of vectors and write the table of similar words; returns the number of its words.

    Args:
        vectors: file to read.
        table: file to write, one line 'word<TAB>neighbour:0.83 ...' a word.
        neighbours, most: as in `similar_words`.
    Raises:
        CorpusError: the vectors cannot be read, or `table` exists.
    """
    if neighbours < 1 or (most is not None and most < 1):
        raise CorpusError(f"word vectors: neighbours and words must be at least 1, got {neighbours} and {most}")
    words, rows = read_vectors(vectors)
    number = 0
    try:
        with Path(table).open("x", encoding="utf-8") as out:
            for word, found in similar_words(words, rows, neighbours=neighbours, most=most):
                out.write(f"{word}\t{' '.join(f'{other}:{score:.2f}' for other, score in found)}\n")
                number += 1
    except FileExistsError:
        raise CorpusError(f"word vectors: {table} exists; give another name, or remove it") from None
    return number


def _text(data: bytes, size: int) -> Iterator[tuple[bytes, Vectors]]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        # a word may hold blanks, numbers do not
        fields = line.rstrip().rsplit(_SPACE, size)
        if len(fields) != size + 1:
            raise _NotVectors(f"line {number} has {len(fields) - 1} numbers, not {size}")
        yield fields[0], np.array([float(field) for field in fields[1:]], dtype=np.float32)


def _binary(data: bytes, count: int, size: int) -> Iterator[tuple[bytes, Vectors]]:
    place = 0
    for number in range(count):
        blank = data.find(_SPACE, place)
        end = blank + 1 + 4 * size
        if blank < 0 or end > len(data):
            raise _NotVectors(f"it ends after {number} of {count} words")
        yield data[place:blank].lstrip(b"\n"), np.frombuffer(data, "<f4", size, blank + 1)
        place = end


def _usable(word: bytes) -> str:
    """Return the word; empty if it is not UTF-8, or holds the blanks or tabs that separate words in the table."""
    try:
        text = word.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return "" if any(letter.isspace() for letter in text) else text


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
