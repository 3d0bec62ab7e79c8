"""A micro-batch that stays in place: the buffers that a CUDA graph reads, which each micro-batch is copied into.

A run has batches of fixed capacities: T tokens, S document slots, M slots for masked tokens. So the tensors of two of
its batches differ in their contents and in nothing else, whatever documents they hold.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask_kernels import Documents

__all__ = ["BatchBuffers", "Form", "form_of", "tensors_of"]


class Form(NamedTuple):
    """What two batches must share so that one can be copied over the other.

    Attributes:
        tensors: name, shape and dtype of each tensor.
        max_seqlen: the static bound on the length of a document.
    """

    tensors: tuple[tuple[str, torch.Size, torch.dtype], ...]
    max_seqlen: int


def form_of(batch: PackedBatch) -> Form:
    """Return the form of a batch."""
    found = tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors_of(batch))
    return Form(found, batch.documents.max_seqlen)


class BatchBuffers:
    """A batch whose tensors keep their addresses.

    Args:
        example: a batch on the device; its contents are the first.
    Attributes:
        batch: what the step reads. Its numbers of real tokens and its cursor stay those of the example, and nothing on
            the device depends on them.
    """

    def __init__(self, example: PackedBatch) -> None:
        documents = replace(example.documents, **_copies(example.documents))
        self.batch = replace(example, documents=documents, **_copies(example))
        self._targets = [tensor for _, tensor in tensors_of(self.batch)]

    def fill(self, batch: PackedBatch) -> None:
        """Copy a batch of the form of the example into the buffers."""
        torch._foreach_copy_(self._targets, [tensor for _, tensor in tensors_of(batch)], non_blocking=True)


def tensors_of(batch: PackedBatch) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a batch and of its documents, with their names, always in the same order."""
    for part in (batch, batch.documents):
        for field in fields(part):
            value = getattr(part, field.name)
            if isinstance(value, Tensor):
                yield field.name, value


def _copies(part: PackedBatch | Documents) -> dict[str, Any]:
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return {name: value.clone() for name, value in values.items() if isinstance(value, Tensor)}
