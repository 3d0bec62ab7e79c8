"""Statistics of masking, counted on micro-batches: rates, replacements, whole words and n-grams.

Real tokens include [CLS] and [SEP], as `masking.rate` counts. A token that a word shares with its similar word counts
as replaced. n-grams are runs of neighbouring chosen words; runs that touch by chance count as one.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from unmask.batch import IGNORED, PackedBatch
from unmask.data.masking.similar_words import SimilarWords

__all__ = ["MaskStatistics", "measure_masks"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskStatistics:
    """Counts over some micro-batches; shares are of the predictions unless said otherwise.

    Attributes:
        tokens, predictions: numbers of real tokens and of tokens to predict.
        rate: predictions / tokens.
        masked, similar, other, kept: predictions that became [MASK], a similar word, other tokens, or stayed; they
            sum to 1.
        fallback: predictions in words that the table lacks; 0 without a table.
        specials: number of predictions whose label is a special token.
        mask_tokens: number of [MASK] in the input.
        words: number of words with a prediction.
        intact: share of these words that is chosen as a whole.
        ngrams: share of the runs of chosen words that are 1, 2, 3, ... words long, by length.
    """

    tokens: int
    predictions: int
    rate: float
    masked: float
    similar: float
    other: float
    kept: float
    fallback: float
    specials: int
    mask_tokens: int
    words: int
    intact: float
    ngrams: dict[int, float]


def measure_masks(
    batches: Iterable[PackedBatch], special_ids: dict[str, int], *, similar_words: SimilarWords | None = None
) -> MaskStatistics | None:
    """Count over batches that carry word starts and labels.

    Args:
        batches: on the CPU.
        special_ids: ids of the special tokens by role.
        similar_words: the table of masking `mac`.
    Returns:
        The statistics, or None if nothing is predicted.
    """
    seen: Counter[str] = Counter()
    ngrams: Counter[int] = Counter()
    specials = list(special_ids.values())
    for batch in batches:
        assert batch.masked is not None and batch.labels is not None and batch.word_starts is not None
        real = batch.real_tokens
        used = (batch.labels != IGNORED).numpy()
        rows, labels = batch.masked.numpy()[used], batch.labels.numpy()[used]
        ids, starts = batch.ids.numpy()[:real], batch.word_starts.numpy()[:real]
        original = ids.copy()
        original[rows] = labels
        first = np.flatnonzero(starts)
        size = np.diff(first, append=real)
        word = np.cumsum(starts) - 1
        chosen = np.bincount(word[rows], minlength=first.size)
        new = ids[rows]
        masked, kept = new == special_ids["mask"], new == labels
        similar = np.zeros(rows.size, dtype=bool)
        if similar_words is not None:
            entry = similar_words.find(original, first, size)[word[rows]]
            known = entry >= 0
            similar[known] = new[known] == similar_words.token(entry[known], (rows - first[word[rows]])[known])
            # a word counts as replaced as a whole, even if it shares a token with its similar word
            alike = np.bincount(word[rows], weights=similar, minlength=first.size) == size
            similar = alike[word[rows]]
            kept &= ~similar
            seen["fallback"] += int((~known).sum())
        seen["tokens"] += real
        seen["predictions"] += rows.size
        seen["masked"] += int(masked.sum())
        seen["similar"] += int(similar.sum())
        seen["kept"] += int(kept.sum())
        seen["specials"] += int(np.isin(labels, specials).sum())
        seen["mask_tokens"] += int((ids == special_ids["mask"]).sum())
        seen["words"] += int((chosen > 0).sum())
        seen["intact"] += int((chosen == size)[chosen > 0].sum())
        ngrams.update(_runs(chosen == size))
    total = seen["predictions"]
    if not total:
        return None
    shares = {name: seen[name] / total for name in ("masked", "similar", "kept", "fallback")}
    return MaskStatistics(
        tokens=seen["tokens"],
        predictions=total,
        rate=total / seen["tokens"],
        other=1 - shares["masked"] - shares["similar"] - shares["kept"],
        specials=seen["specials"],
        mask_tokens=seen["mask_tokens"],
        words=seen["words"],
        intact=seen["intact"] / seen["words"],
        ngrams={length: ngrams[length] / ngrams.total() for length in sorted(ngrams)},
        **shares,
    )


def _runs(chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[int]:
    """Return the lengths of the runs of True in `chosen` (W,)."""
    edges = np.flatnonzero(np.diff(chosen.astype(np.int8), prepend=0, append=0))
    runs: list[int] = (edges[1::2] - edges[::2]).tolist()
    return runs
