"""What loaders of other libraries see in a packed batch: a mapping in which each tensor has a first dimension of 1.

The Trainer of transformers and accelerate take a batch apart and put it together again, as in

    type(batch)({name: value.to(device) for name, value in batch.items()})

They read the size of a batch off the first dimension of its first tensor, and cut every tensor to that size. The
tensors of a packed batch have different lengths: T tokens, S documents, M masked tokens. As a mapping it is therefore a
batch of one row, which no such cut can shorten:

    batch.ids   (T,)        batch["ids"]   (1, T)        PackedBatch(dict(batch)).ids   (T,)

One process gets the batch whole. Several processes would share a batch of one row, or get several batches joined. Both
are refused, with the setting that makes each process load its own batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch.distributed as dist
from torch import Tensor

from unmask_kernels import Documents

__all__ = ["DocumentRow", "from_row", "to_row"]

_REMEDY = (
    "set dispatch_batches=False, so that each process loads its own batches: "
    "Accelerator(dataloader_config=DataLoaderConfiguration(dispatch_batches=False)), or "
    "TrainingArguments(accelerator_config={'dispatch_batches': False})"
)
_LISTS = tuple(field.name for field in fields(Documents) if field.name not in ("tokens", "max_seqlen"))


def to_row(value: Any) -> Any:
    """Return a tensor with a first dimension of 1, and any other value as it is."""
    return value[None] if isinstance(value, Tensor) else value


def from_row(value: Any) -> Any:
    """Return a tensor without its first dimension, and any other value as it is."""
    return value[0] if isinstance(value, Tensor) else value


class DocumentRow(Mapping[str, Any]):
    """The tensors of `Documents`, each with a first dimension of 1.

    A loader that joins or cuts batches makes such a mapping of another number of rows, which is refused here.

    Raises:
        ValueError: the tensors have not one row, or a loader describes them for other processes.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        boundaries = self._values["cu_seqlens"]
        rows, dims = boundaries.shape[0], len(boundaries.shape)
        if dims > 2:
            raise ValueError(
                f"PackedBatch: a batch must stay by itself, but a loader stacked {rows} of them; give the DataLoader "
                "batch_size=None, or batch_size=1 and collate_fn=lambda batches: batches[0]"
            )
        if rows != 1:
            done = f"joined {rows} of them" if rows else "divided it among processes"
            raise ValueError(f"PackedBatch: a batch must stay by itself, but a loader {done}; {_REMEDY}")
        if (
            not isinstance(boundaries, Tensor)
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size() > 1
        ):
            raise ValueError(
                f"PackedBatch: a batch must stay by itself, but a loader sends it to {dist.get_world_size()} "
                f"processes; {_REMEDY}"
            )

    @classmethod
    def of(cls, documents: Documents) -> DocumentRow:
        """Return the tensors of documents as one row."""
        return cls({name: to_row(getattr(documents, name)) for name in _LISTS})

    def documents(self, max_seqlen: int) -> Documents:
        """Return the documents again, with the bound on their lengths, which is no tensor."""
        tokens = self._values["positions"].shape[-1]
        lists = {name: from_row(value) for name, value in self._values.items()}
        return Documents(**lists, tokens=tokens, max_seqlen=max_seqlen)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
