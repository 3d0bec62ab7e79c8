"""The unigram loss of a store: the loss of a model that knows how often each token occurs, and nothing else.

    p(v)  = (c(v) + 1) / (N + V)         c: counts in the documents to train on, N their sum; V ordinary tokens
    loss  = - sum over v of q(v) log p(v)      q(v): share of v in the held-out documents

A masked language model begins near log V. It first learns the frequencies, and its loss falls to this one. A curve that
stays there has learnt nothing else. Masks fall on ordinary tokens evenly, so all ordinary tokens count, not only those
that are masked; special tokens do not count. A source counts as often as an epoch reads it. If no document is held out,
q comes from the documents to train on. The loss of a causal model also has the [SEP] after each document, which this
loss leaves out.

Each part of a large store is sampled: documents that are spread evenly and hold about `SAMPLE_TOKENS` tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import numpy as np
import numpy.typing as npt

from unmask.data.stream import TokenStore
from unmask.data.stream.blocks import Source
from unmask.objectives import TOKEN_OBJECTIVES

__all__ = ["SAMPLE_TOKENS", "Unigram", "baseline", "measure_unigram"]

SAMPLE_TOKENS = 1 << 24
_PART_TOKENS = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Unigram:
    """The unigram loss, and what it was counted on.

    Attributes:
        loss: in nats.
        counted: tokens that were counted.
        total: tokens that there are to count.
    """

    loss: float
    counted: int
    total: int

    def __str__(self) -> str:
        sampled = f", from a sample of {self.counted:,} of {self.total:,} tokens" if self.counted < self.total else ""
        return f"{self.loss:.3f} nats is the loss of a model that knows only token frequencies{sampled}"


def measure_unigram(
    store: TokenStore,
    ordinary_ids: npt.ArrayLike,
    *,
    training: Sequence[Source],
    held_out: Sequence[Source],
    sample_tokens: int = SAMPLE_TOKENS,
) -> Unigram | None:
    """Count the tokens of a store and return its unigram loss.

    Args:
        store: the tokens.
        ordinary_ids: ids that may be masked, (V,).
        training: the sources to train on, with their weights.
        held_out: the sources that evaluation reads; their weights do not count.
        sample_tokens: tokens to count in each part, about.
    Returns:
        The loss, or None if there is no ordinary token to count.
    """
    ordinary = np.asarray(ordinary_ids, dtype=np.int64)
    counts, counted, total = np.zeros(ordinary.size), 0, 0
    sizes = [source.lengths.tokens for source in training]
    for source, size in zip(training, sizes, strict=True):
        if source.weight and size:
            share = max(1, sample_tokens * size // sum(sizes))
            found, taken = _count(store, [source], share)
            # a source that was sampled counts as a whole
            counts += found[ordinary] * (float(source.weight) * size / taken)
            counted, total = counted + taken, total + size
    seen = np.zeros(ordinary.size)
    if size := sum(source.lengths.tokens for source in held_out):
        found, taken = _count(store, held_out, sample_tokens)
        seen += found[ordinary]
        counted, total = counted + taken, total + size
    if not seen.any():
        seen = counts
    if not seen.any():
        return None
    model = (counts + 1.0) / (counts.sum() + ordinary.size)
    return Unigram(loss=float(-(seen / seen.sum()) @ np.log(model)), counted=counted, total=total)


def baseline(unigram: float, weights: Mapping[str, float]) -> float:
    """Return the weighted loss of a model that knows only token frequencies, and guesses the label of a pair.

    Args:
        unigram: unigram loss, in nats.
        weights: weight of each objective, by its name.
    """
    return sum(weight * (unigram if name in TOKEN_OBJECTIVES else log(2.0)) for name, weight in weights.items())


def _count(store: TokenStore, sources: Sequence[Source], tokens: int) -> tuple[npt.NDArray[np.float64], int]:
    """Count each id of the documents, or of some that hold about `tokens`; also return the number of tokens counted."""
    total = sum(source.lengths.tokens for source in sources)
    ends = np.cumsum([source.documents.size for source in sources])
    size = int(ends[-1])
    # a document has a token at least, so these are no more than the tokens
    number = size if total <= tokens else max(1, size * tokens // total)
    places = np.linspace(0, size, number, endpoint=False).astype(np.int64)
    bounds = [0, *np.searchsorted(places, ends).tolist()]
    documents = np.concatenate(
        [
            source.documents.documents(places[first:last] - (end - source.documents.size))
            for source, end, (first, last) in zip(sources, ends, pairwise(bounds), strict=True)
        ]
    )
    lengths = store.lengths[documents].astype(np.int64)
    counts = np.zeros(store.vocab_size)
    part_of = np.cumsum(lengths) // _PART_TOKENS
    for part in np.split(np.arange(documents.size), np.flatnonzero(np.diff(part_of)) + 1):
        counts += store.count_ids(documents[part])
    return counts, int(lengths.sum())
