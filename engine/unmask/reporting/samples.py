"""What a model predicts for the masked tokens of held-out text, beside what stood there."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from unmask.batch import IGNORED, PackedBatch
from unmask.data.tokenizer import Tokenizer
from unmask.model import PretrainingModel

__all__ = ["FilledSample", "samples_of"]

_LONGEST, _SHORTEST = 60, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledSample:
    """A piece of text with predictions.

    Attributes:
        tokens: as the vocabulary spells them, without special tokens at the ends.
        predicted: for some positions in `tokens`: the token that stood there, the one that the model predicts, and its
            probability.
    """

    tokens: list[str]
    predicted: dict[int, tuple[str, str, float]]


def samples_of(model: PretrainingModel, tokenizer: Tokenizer, batch: PackedBatch, *, count: int) -> list[FilledSample]:
    """Return the first documents of a micro-batch with the predictions for their masked tokens.

    Args:
        model: on the CPU.
        tokenizer: that of the model.
        batch: with masked tokens and labels, on the CPU.
        count: most documents.
    """
    assert batch.masked is not None and batch.labels is not None
    used = batch.labels != IGNORED
    rows, labels = batch.masked[used], batch.labels[used]
    model.eval()
    with torch.inference_mode():
        logits = model.mlm_logits(model(batch, rows=rows)).float()
        ids = torch.from_numpy(tokenizer.used_ids)
        best = logits[:, ids].softmax(-1).max(-1)
    found = {
        row: (tokenizer.token(label), tokenizer.token(token), probability)
        for row, label, token, probability in zip(
            rows.tolist(), labels.tolist(), ids[best.indices].tolist(), best.values.tolist(), strict=True
        )
    }
    return list(_documents(batch, tokenizer, found))[:count]


def _documents(
    batch: PackedBatch, tokenizer: Tokenizer, found: dict[int, tuple[str, str, float]]
) -> Iterator[FilledSample]:
    ends = batch.documents.cu_seqlens.tolist()
    ids = batch.ids.tolist()
    for first, end in pairwise(ends):
        if end > batch.real_tokens or end - first < _SHORTEST:
            continue
        # without [CLS], and without the last [SEP]
        rows = range(first + 1, min(end - 1, first + 1 + _LONGEST))
        predicted = {row - first - 1: found[row] for row in rows if row in found}
        if predicted:
            yield FilledSample(tokens=[tokenizer.token(ids[row]) for row in rows], predicted=predicted)
