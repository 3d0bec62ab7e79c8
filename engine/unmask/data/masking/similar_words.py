"""Similar words of equal length in tokens: the table of masking as correction.

    word<TAB>neighbour:0.83 neighbour:0.80 ...          UTF-8, one word a line, neighbours by falling similarity

For each word the table keeps the first neighbour that differs from it and has as many tokens, none of them unknown.
Words with an unknown token and words without such a neighbour are left out; `Coverage` counts them. A look-up goes by a
64-bit hash of the word's tokens and then compares the tokens, so equal hashes do no harm.

Memory: 16 bytes a word and 8 a token. Cost of a look-up: about 150 ns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unmask.data.randomness import mix64
from unmask.data.text.undecoded import converted
from unmask.errors import CorpusError
from unmask.paths import as_typed

if TYPE_CHECKING:
    from unmask.data.tokenizer import Tokenizer

__all__ = ["Coverage", "SimilarWords", "hash_words", "read_neighbours"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What a table kept of its file.

    Attributes:
        words: words of the file, one a line.
        unknown: words left out because the tokenizer does not know one of their tokens.
        without: words left out because no neighbour has as many known tokens.
        kept: words with a similar one.
    """

    words: int
    unknown: int
    without: int
    kept: int

    def __str__(self) -> str:
        return (
            f"{self.kept:,} of {self.words:,} words have a similar one of equal length; "
            f"{self.unknown:,} hold unknown tokens, {self.without:,} have no fitting neighbour"
        )


class SimilarWords:
    """A table from words to similar words, both as ids; it does not change.

    Attributes:
        coverage: what was kept of the file.
        hash: SHA-256 of the pairs, for the identity of a stream.
        longest: tokens of the longest word.
    """

    def __init__(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], coverage: Coverage | None = None) -> None:
        """Make a table of (word, similar word) pairs of ids; if a word comes twice, its first pair counts.

        Raises:
            ValueError: no pairs, an empty word, or two words of different length.
        """
        if not pairs:
            raise ValueError("similar_words: a table needs at least one pair of words, got none")
        for word, similar in pairs:
            if not word or len(word) != len(similar):
                raise ValueError(
                    "similar_words: a word and its similar word must have the same number of tokens, at least 1, "
                    f"got {len(word)} and {len(similar)}"
                )
        self.coverage = coverage or Coverage(words=len(pairs), unknown=0, without=0, kept=len(pairs))
        sizes = np.array([len(word) for word, _ in pairs], dtype=np.int64)
        keys = np.array([token for word, _ in pairs for token in word], dtype=np.int64)
        values = np.array([token for _, similar in pairs for token in similar], dtype=np.int64)
        starts = np.cumsum(sizes) - sizes
        self._sizes, self._starts, self._keys, self._values = sizes, starts, keys, values
        hashes = hash_words(keys, starts, sizes)
        # stable, so that the first of equal words is found
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        self.longest = int(sizes.max())
        self.hash = hashlib.sha256(sizes.tobytes() + keys.tobytes() + values.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._sizes)

    @classmethod
    def load(cls, path: str | Path, tokenizer: Tokenizer) -> SimilarWords:
        """Read a table and encode it with `tokenizer`.

        Raises:
            CorpusError: no such file, a line not in the format, or no usable word.
        """
        table = list(read_neighbours(path))
        texts = sorted({text for word, neighbours in table for text in (word, *neighbours)})
        encoded = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
        special = {*tokenizer.special_ids.values(), *tokenizer.added_special_ids}
        known = {text: ids for text, ids in encoded.items() if ids and special.isdisjoint(ids)}
        pairs: list[tuple[list[int], list[int]]] = []
        unknown = 0
        for word, neighbours in table:
            ids = known.get(word)
            if ids is None:
                unknown += 1
                continue
            fitting = (known[n] for n in neighbours if n in known)
            similar = next((other for other in fitting if len(other) == len(ids) and other != ids), None)
            if similar is not None:
                pairs.append((ids, similar))
        coverage = Coverage(
            words=len(table), unknown=unknown, without=len(table) - unknown - len(pairs), kept=len(pairs)
        )
        if not pairs:
            raise CorpusError(
                f"{path}: no word can be used with this tokenizer ({coverage}); "
                "give a table of the corpus's language, in words that the vocabulary can spell"
            )
        return cls(pairs, coverage)

    def find(self, ids: npt.NDArray[Any], first: Indices, sizes: Indices) -> Indices:
        """Look up words.

        Args:
            ids: a row of tokens, (N,).
            first: row of the first token of each word, (W,).
            sizes: tokens of each word, at least 1, (W,).
        Returns:
            Entry of each word in the table, or -1, (W,).
        """
        out = np.full(first.size, -1, dtype=np.int64)
        short = np.flatnonzero(sizes <= self.longest)
        begins, lengths = first[short], sizes[short]
        hashes = hash_words(ids, begins, lengths)
        place = np.minimum(np.searchsorted(self._hashes, hashes), self._hashes.size - 1)
        entry = self._order[place]
        same = (self._hashes[place] == hashes) & (self._sizes[entry] == lengths)
        for offset in range(self.longest):
            at = np.flatnonzero(same & (lengths > offset))
            same[at] = ids[begins[at] + offset] == self._keys[self._starts[entry[at]] + offset]
        out[short[same]] = entry[same]
        return out

    def pairs(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Yield (word, similar word)."""
        for start, size in zip(self._starts.tolist(), self._sizes.tolist(), strict=True):
            stretch = slice(start, start + size)
            yield tuple(self._keys[stretch].tolist()), tuple(self._values[stretch].tolist())

    def token(self, entries: Indices, places: Indices) -> Indices:
        """Return token number `places` (m,) of the similar words of `entries` (m,), (m,)."""
        return self._values[self._starts[entries] + places]


def hash_words(ids: npt.NDArray[Any], first: Indices, sizes: Indices) -> npt.NDArray[np.uint64]:
    """Hash the number and the ids of each word's tokens.

    Args:
        ids: tokens in a row, (N,).
        first: row of the first token of each word, (W,).
        sizes: tokens of each word, (W,).
    Returns:
        (W,) uint64.
    """
    hashes = mix64(sizes)
    for offset in range(int(sizes.max(initial=0))):
        at = np.flatnonzero(sizes > offset)
        hashes[at] = mix64(hashes[at] ^ ids[first[at] + offset].astype(np.uint64))
    return hashes


def read_neighbours(path: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each word of a table with its neighbours, the most similar first.

    Raises:
        CorpusError: no such file, not UTF-8, or a line not in the format.
    """
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                word, tab, rest = line.rstrip("\r\n").partition("\t")
                neighbours = [entry.rpartition(":")[0] for entry in rest.split(" ") if entry]
                if not word or not tab or not neighbours or not all(neighbours):
                    raise CorpusError(
                        f"{path}, line {number}: must be 'word<TAB>neighbour:similarity ...', got {line.strip()[:60]!r}"
                    )
                yield word, neighbours
    except FileNotFoundError:
        raise CorpusError(
            f"masking.similar_words: there is no table {path}; make one with unmask similar-words --store STORE --out "
            f"{as_typed(Path(path))}"
        ) from None
    except IsADirectoryError:
        raise CorpusError(
            f"masking.similar_words: {path} is a folder; give the table, a file that `unmask similar-words` made"
        ) from None
    except UnicodeDecodeError as error:
        way = converted(Path(path), error) or "give a table that `unmask similar-words` made"
        raise CorpusError(f"masking.similar_words: {path} is not UTF-8 ({error.reason}); {way}") from None
    except OSError as error:
        raise CorpusError(
            f"masking.similar_words: {path} cannot be read ({error.strerror}); make it readable, or copy it again"
        ) from None
