"""The inputs of a model in flat arrays, and the packed batches of a fine-tuning run.

    order of an epoch    a permutation by (seed, epoch), so that a resumed run reads on where it stopped
    a step               the next `batch_size` inputs of the order; the last step of an epoch may have fewer
    a micro-batch        inputs of the step, one after the other in one row, without padding

An input is a text, a window of one, or a window of a question. Its document key is made from epoch and index, so
dropout differs from epoch to epoch and does not depend on how a step is cut into micro-batches.

Shapes: N inputs, T tokens of a batch, S inputs of a batch, K outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from unmask.batch import PackedBatch, assemble
from unmask.data.randomness import philox_4x32, piece_keys, site_key
from unmask.tasks.qa.windows import QuestionWindow

__all__ = ["ModelInputs", "order_of_epoch"]

# a site of its own beside those of the data stream
_ORDER = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelInputs:
    """N inputs.

    Attributes:
        ids: token ids of all inputs, one after the other, int64.
        segments: 0 or 1 for each of them, int64.
        lengths: tokens of each input, int64 (N,).
        ends: the token after the last one of each input, int64 (N,).
        examples: index of the example that each input belongs to, int64 (N,).
        targets: what the output layer predicts of each input, (N, ...); None for words, and without labels.
        words: places of the predicted tokens in each input, N arrays; None unless the layer predicts words.
        tags: number of the tag of each of them, N arrays; None without labels.
        numbers: number of the word that each of `words` begins, N arrays; None unless the layer predicts words.
        windows: the windows of questions, N of them; None for other inputs.
    """

    ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    lengths: NDArray[np.int64]
    ends: NDArray[np.int64]
    examples: NDArray[np.int64]
    targets: NDArray[np.generic] | None = None
    words: Sequence[NDArray[np.int64]] | None = None
    tags: Sequence[NDArray[np.int64]] | None = None
    numbers: Sequence[NDArray[np.int64]] | None = None
    windows: Sequence[QuestionWindow] | None = None

    @classmethod
    def of(
        cls,
        ids: Sequence[Sequence[int]],
        segments: Sequence[Sequence[int]] | None,
        examples: Sequence[int],
        *,
        targets: NDArray[np.generic] | None = None,
        words: Sequence[NDArray[np.int64]] | None = None,
        tags: Sequence[NDArray[np.int64]] | None = None,
        numbers: Sequence[NDArray[np.int64]] | None = None,
        windows: Sequence[QuestionWindow] | None = None,
    ) -> ModelInputs:
        """Return the inputs with these token ids; without segments all are 0."""
        flat = np.array([index for one in ids for index in one], np.int64)
        kinds = [kind for one in segments for kind in one] if segments is not None else np.zeros(len(flat))
        lengths = np.array([len(one) for one in ids], np.int64)
        return cls(
            ids=flat,
            segments=np.array(kinds, np.int64),
            lengths=lengths,
            ends=np.cumsum(lengths),
            examples=np.array(examples, np.int64),
            targets=targets,
            words=words,
            tags=tags,
            numbers=numbers,
            windows=windows,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def fingerprint(self) -> str:
        """Return a SHA-256 of everything that a run reads of the inputs."""
        digest = hashlib.sha256()
        for values in (self.ids, self.segments, self.lengths, self.targets, *(self.words or ()), *(self.tags or ())):
            if values is not None:
                digest.update(f"{values.dtype} {values.shape}".encode())
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def batch(self, indices: NDArray[np.int64], *, epoch: int = 0, pad_id: int = 0) -> PackedBatch:
        """Return the packed batch of these inputs, S of them, without padding."""
        spans = [slice(self.ends[index] - self.lengths[index], self.ends[index]) for index in indices]
        lengths = self.lengths[indices]
        rows = tags = None
        if self.words is not None:
            first = np.cumsum(lengths) - lengths
            rows = np.concatenate([self.words[index] + start for index, start in zip(indices, first, strict=True)])
            tags = np.zeros_like(rows) if self.tags is None else np.concatenate([self.tags[index] for index in indices])
        return assemble(
            np.concatenate([self.ids[span] for span in spans]),
            lengths,
            keys=piece_keys(epoch, 0, indices, 0).view(np.int64),
            tokens=int(lengths.sum()),
            sequences=len(indices),
            max_seqlen=int(lengths.max()),
            pad_id=pad_id,
            segments=np.concatenate([self.segments[span] for span in spans]),
            targets=None if self.targets is None else self.targets[indices],
            masked=rows,
            labels=tags,
        )

    def cut(self, indices: NDArray[np.int64], tokens: int) -> Iterator[NDArray[np.int64]]:
        """Yield these inputs in parts of at most `tokens` tokens, and of at least one input."""
        if not len(indices):
            return
        begin, held = 0, 0
        for place, length in enumerate(self.lengths[indices].tolist()):
            if held and held + length > tokens:
                yield indices[begin:place]
                begin, held = place, 0
            held += length
        yield indices[begin:]


@lru_cache(maxsize=2)
def order_of_epoch(count: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a permutation of `count` inputs that depends on seed and epoch alone, int64 (count,)."""
    index = np.arange(count, dtype=np.uint64)
    low, high, *_ = philox_4x32(index & np.uint64(0xFFFFFFFF), 0, 0, 0, *site_key(seed, _ORDER, epoch))
    return np.argsort((high << np.uint64(32)) | low, kind="stable")
