"""A micro-batch as keyword arguments of a model of `transformers`: one flat row, its boundaries, and its labels.

    input_ids, token_type_ids      (1, T) int64
    position_ids                   (1, T) int64, from 0 in each document
    labels                         (1, T) int64, the original id where a token is predicted, else -100
    cu_seq_lens_q, cu_seq_lens_k   (S + 1,) int32, where each document begins, and the end
    max_length_q, max_length_k     int, a bound on the length of a document

These are the names and types of `transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True)`. Models with
FlashAttention or another attention for packed rows read them.
"""

from typing import Any

import torch

from unmask.batch import IGNORED, PackedBatch
from unmask.data.compose import PairTask

__all__ = ["flat_inputs"]

_PAIR_LABELS: dict[PairTask, str] = {"nsp": "next_sentence_label", "sop": "sentence_order_label"}


def flat_inputs(batch: PackedBatch, pair_task: PairTask = "nsp") -> dict[str, Any]:
    """Return a micro-batch as keyword arguments.

    Args:
        batch: T tokens in S document slots, with or without masks.
        pair_task: what pairs are for; it names their labels, (S,).
    Returns:
        The arguments above. `labels` is there if the batch is masked, and labels of pairs if it has them.
    """
    documents = batch.documents
    inputs: dict[str, Any] = {
        "input_ids": batch.ids[None],
        "position_ids": documents.positions[None],
        "token_type_ids": batch.segments[None],
    }
    if batch.masked is not None and batch.labels is not None:
        labels = torch.full_like(batch.ids, IGNORED)
        used = batch.labels != IGNORED
        labels[batch.masked[used]] = batch.labels[used]
        inputs["labels"] = labels[None]
    if batch.pair_labels is not None:
        inputs[_PAIR_LABELS[pair_task]] = batch.pair_labels
    boundaries = documents.cu_seqlens
    inputs |= {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries}
    return inputs | {"max_length_q": documents.max_seqlen, "max_length_k": documents.max_seqlen}
