"""How full micro-batches are, and how long documents and sequences are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unmask.batch import IGNORED, PackedBatch

__all__ = ["Lengths", "Packing", "describe_lengths", "measure_packing", "sequences_of", "texts_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Statistics of lengths in tokens.

    Attributes:
        count, mean, shortest, longest: number, mean, minimum and maximum.
        quartiles: at 25, 50 and 75 %.
        edges: of the histogram, powers of two, ascending, and last the longest length, at least 2; bin i counts
            edges[i] <= length < edges[i + 1], and the last bin its upper edge too.
        counts: of each bin; there is one fewer than edges.
    """

    count: int
    mean: float
    shortest: int
    longest: int
    quartiles: tuple[float, float, float]
    edges: list[int]
    counts: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """Shares in [0, 1] over some micro-batches.

    Attributes:
        batches: number of micro-batches.
        fill: real tokens / token capacity T.
        masks: predictions / mask slots M, or None if nothing is masked.
        slots: real documents / document slots S.
        tokens: number of real tokens.
        pairs: number of pairs with a label.
        second_label: share of the pairs whose label is 1 (random, or swapped); None without pairs.
    """

    batches: int
    fill: float
    masks: float | None
    slots: float
    tokens: int
    pairs: int = 0
    second_label: float | None = None


def describe_lengths(lengths: npt.NDArray[np.integer]) -> Lengths:
    """Compute statistics of lengths (N,); empty documents are left out.

    Raises:
        ValueError: no length is above 0.
    """
    sizes = lengths[lengths > 0].astype(np.int64)
    if not sizes.size:
        raise ValueError("lengths: there must be a document that is not empty, got none")
    longest = max(2, int(sizes.max()))
    edges = [*(1 << power for power in range((longest - 1).bit_length())), longest]
    low, middle, high = np.quantile(sizes, [0.25, 0.5, 0.75]).tolist()
    return Lengths(
        count=sizes.size,
        mean=float(sizes.mean()),
        shortest=int(sizes.min()),
        longest=int(sizes.max()),
        quartiles=(low, middle, high),
        edges=edges,
        counts=np.histogram(sizes, edges)[0].tolist(),
    )


def measure_packing(batches: Sequence[PackedBatch]) -> Packing:
    """Measure how full some micro-batches are.

    Raises:
        ValueError: no batch.
    """
    if not batches:
        raise ValueError("packing: needs at least one micro-batch, got none")
    capacity = sum(batch.ids.numel() for batch in batches)
    real = sum(batch.real_tokens for batch in batches)
    slots = sum(batch.documents.keys.numel() for batch in batches)
    masked = [batch.labels for batch in batches if batch.labels is not None]
    mask_slots = sum(labels.numel() for labels in masked)
    labelled = [batch.pair_labels[batch.pair_labels != IGNORED] for batch in batches if batch.pair_labels is not None]
    pairs = sum(len(labels) for labels in labelled)
    return Packing(
        batches=len(batches),
        fill=real / capacity,
        masks=sum(int((labels != IGNORED).sum()) for labels in masked) / mask_slots if mask_slots else None,
        slots=sum(sequences_of(batch).size for batch in batches) / slots,
        tokens=real,
        pairs=pairs,
        second_label=sum(int(labels.sum()) for labels in labelled) / pairs if pairs else None,
    )


def sequences_of(batch: PackedBatch) -> npt.NDArray[np.int64]:
    """Return the lengths of the real documents of a batch, as attention sees them, (D,)."""
    edges = batch.documents.cu_seqlens.cpu().numpy().astype(np.int64)
    lengths = np.diff(edges)
    return lengths[(edges[1:] <= batch.real_tokens) & (lengths > 0)]


def texts_of(batch: PackedBatch, special_ids: Mapping[str, int], *, masked: bool = True) -> list[npt.NDArray[np.int64]]:
    """Return the original tokens of each real document of a batch, without special ones.

    Args:
        batch: on the CPU.
        special_ids: ids of the special tokens by role.
        masked: whether the labels are the original tokens at their rows; labels of the next token are not.
    """
    ids = batch.ids.numpy().copy()
    if masked and batch.masked is not None and batch.labels is not None:
        used = (batch.labels != IGNORED).numpy()
        ids[batch.masked.numpy()[used]] = batch.labels.numpy()[used]
    ends = np.cumsum(sequences_of(batch))
    texts = np.split(ids[: batch.real_tokens], ends[:-1])
    return [text[~np.isin(text, list(special_ids.values()))] for text in texts]
