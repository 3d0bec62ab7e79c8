"""mean_pool: one vector for each document, the mean of its hidden states (Reimers & Gurevych 2019, arXiv:1908.10084).

Shapes: T packed tokens, N documents of the batch without its padding, D hidden. BERT's own vector is `Encoder.pool`.
"""

import torch
from torch import Tensor

from unmask.batch import PackedBatch

__all__ = ["mean_pool"]


def mean_pool(hidden: Tensor, batch: PackedBatch) -> Tensor:
    """Return the mean of the hidden states of each document, (T, D) -> (N, D).

    All tokens of a document count, also [CLS] and [SEP], as in `sentence-transformers`. Padding does not count: the
    result has a row for each document that was packed, in their order. The mean of an empty document is 0.

    On a GPU the order of the sums varies from call to call, unless `torch.use_deterministic_algorithms` is on.

    Args:
        hidden: hidden states of all tokens of the batch, (T, D), of any floating-point dtype.
        batch: the batch that they belong to, on the same device.
    Returns:
        (N, D) in the dtype of `hidden`. Sums are fp32, or fp64 for fp64.
    Raises:
        TypeError: `batch` is no batch.
        ValueError: `hidden` does not have a row for each token of the batch.
    """
    if not isinstance(batch, PackedBatch):
        raise TypeError(
            f"mean_pool: batch must be a PackedBatch, got {type(batch).__name__}; pass the batch itself, "
            "mean_pool(hidden, batch)"
        )
    documents, count = batch.documents, batch.real_documents
    if hidden.dim() != 2 or len(hidden) != documents.tokens:
        raise ValueError(
            f"mean_pool: hidden must have the shape ({documents.tokens}, D), a row for each token of the batch, got "
            f"{tuple(hidden.shape)}; call the encoder without rows="
        )
    ends = documents.cu_seqlens[: count + 1]
    wide = hidden[: batch.real_tokens].to(torch.promote_types(hidden.dtype, torch.float32))
    ids = documents.document_ids[: batch.real_tokens]
    sums = wide.new_zeros(count, hidden.shape[1]).index_add(0, ids, wide)
    return (sums / ends.diff().clamp(min=1)[:, None]).to(hidden.dtype)
