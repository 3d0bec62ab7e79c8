"""A token store in memory: what the stream reads, without files, Arrow or a tokenizer.

For generated data: tests, benches, and a training step on a machine with only PyTorch and NumPy.
"""

import hashlib
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from unmask.data.compose.sequences import Indices, ranges
from unmask.data.documents import Chosen, LengthCounts, Members

__all__ = ["MemoryStore"]


class MemoryStore:
    """Documents given as one array of tokens and their lengths; an `unmask.data.stream.TokenStore`."""

    special_ids: ClassVar[dict[str, int]] = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    added_special_ids: ClassVar[list[int]] = []

    def __init__(
        self,
        ids: npt.NDArray[Any],
        lengths: npt.ArrayLike,
        *,
        vocab_size: int,
        source_of: npt.ArrayLike | None = None,
        word_starts: npt.NDArray[np.bool_] | None = None,
        sentence_starts: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Hold the documents.

        Args:
            ids: tokens of all documents one after the other, without [CLS] and [SEP], (T,) uint16 or uint32.
            lengths: tokens of each document, (N,), sum T.
            vocab_size: all ids are below it; 0 to 4 are the special ones.
            source_of: number of the source of each document, (N,). Default: all of one source.
            word_starts: True for a token that starts a word, (T,). Default: each token is a word.
            sentence_starts: True for a token that starts a sentence, (T,). Default: each document is a sentence.
        """
        self.ids = ids
        self.lengths: npt.NDArray[np.int32] = np.asarray(lengths, dtype=np.int32)
        if self.lengths.sum(dtype=np.int64) != len(ids):
            raise ValueError(
                f"MemoryStore: lengths must sum to the number of ids ({len(ids)}), sum to {self.lengths.sum()}"
            )
        self.vocab_size = vocab_size
        self.source_of: npt.NDArray[np.int16] = np.zeros(self.lengths.size, dtype=np.int16)
        if source_of is not None:
            self.source_of = np.asarray(source_of, dtype=np.int16)
        self.sources = [f"source-{n}" for n in range(int(self.source_of.max(initial=0)) + 1)]
        self.word_starts = np.ones(len(ids), dtype=bool) if word_starts is None else word_starts
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])
        self.sentence_starts = np.zeros(len(ids), dtype=bool) if sentence_starts is None else sentence_starts.copy()
        self.sentence_starts[self.offsets[:-1][self.lengths > 0]] = True

    @classmethod
    def generated(cls, lengths: npt.ArrayLike, *, vocab_size: int, seed: int = 0) -> "MemoryStore":
        """Return a store with documents of the given lengths, (N,), of uniformly random ordinary tokens."""
        sizes = np.asarray(lengths, dtype=np.int64)
        dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
        ids = np.random.default_rng(seed).integers(5, vocab_size, size=int(sizes.sum()), dtype=dtype)
        return cls(ids, sizes, vocab_size=vocab_size)

    @property
    def ordinary_ids(self) -> npt.NDArray[np.int64]:
        """Every id that is not special, (vocab_size - 5,)."""
        return np.arange(5, self.vocab_size)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the stream reads."""
        digest = hashlib.sha256(f"{self.ids.dtype} {self.vocab_size}".encode())
        for part in (self.ids, self.lengths, self.source_of, self.word_starts, self.sentence_starts):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def members(self, source: int) -> Members:
        """Return the documents of a source, by its number."""
        return Members.of(np.flatnonzero(self.source_of == source))

    def length_counts(self, source: int) -> LengthCounts:
        """Return how many documents of a source, by its number, have each length."""
        return LengthCounts.of(self.lengths[self.source_of == source])

    def held_out(self, fraction: float) -> Chosen:
        """Return the documents whose content hash lies in the lowest `fraction`."""
        documents = np.flatnonzero(self.held_out_mask(fraction))
        return Chosen(documents, self.source_of[documents], self.lengths[documents])

    def held_out_mask(self, fraction: float) -> npt.NDArray[np.bool_]:
        """Return (N,) bool: True for the documents of `held_out`."""
        bounds = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        hashes = [hashlib.sha256(self.ids[first:last].tobytes()).digest()[:8] for first, last in bounds]
        return np.frombuffer(b"".join(hashes), dtype=np.uint64) < fraction * 2.0**64

    def gather(
        self, documents: Indices, starts: Indices, lengths: Indices
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return ids and word starts of spans of documents, as `Store.gather` does."""
        places = ranges(self.offsets[documents] + starts, lengths)
        return self.ids[places], self.word_starts[places]

    def count_ids(self, documents: Indices) -> npt.NDArray[np.int64]:
        """Count each id in documents, as `Store.count_ids` does."""
        places = ranges(self.offsets[documents], self.lengths[documents].astype(np.int64))
        return np.bincount(self.ids[places], minlength=self.vocab_size)

    def gather_sentence_starts(self, documents: Indices, starts: Indices, lengths: Indices) -> npt.NDArray[np.bool_]:
        """Return sentence starts of spans of documents, as `Store.gather_sentence_starts` does."""
        return self.sentence_starts[ranges(self.offsets[documents] + starts, lengths)]
