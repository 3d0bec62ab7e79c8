"""A student that learns from a teacher alone: an encoder without heads, which `transformers` loads as BertModel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from unmask.batch import PackedBatch
from unmask.config import EncoderConfig
from unmask.model.checkpointing import Checkpointed
from unmask.model.encoder import Encoder

__all__ = ["Student", "copy_layers"]


class Student(Checkpointed):
    """An encoder to train, with the methods that the trainer calls on a model.

    Args:
        config: sizes and constants.
        compute_dtype, seed: see `Encoder`.

    Attributes:
        encoder: the `Encoder`, without a pooler: nothing here would train it.
    """

    def __init__(self, config: EncoderConfig, *, compute_dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        super().__init__()
        self.encoder = Encoder(config, compute_dtype=compute_dtype, seed=seed, pooler=False)
        self.config = self.encoder.config

    def forward(self, batch: PackedBatch, *, rows: Tensor | None = None) -> Tensor:
        """Return the hidden states of the batch, (T, D), or of the given rows, (R, D); see `Encoder.forward`."""
        return self.encoder(batch.ids, batch.documents, batch.segments, rows=rows)

    def save_pretrained(self, folder: str | Path, *, pad_id: int = 0, for_transformers: bool = True) -> None:
        """Write a folder that `transformers.BertModel.from_pretrained` reads; see `Encoder.save_pretrained`."""
        self.encoder.save_pretrained(folder, pad_id=pad_id, for_transformers=for_transformers)


def copy_layers(student: Encoder, teacher: Encoder, layers: Sequence[int]) -> None:
    """Copy the teacher's embeddings, and these of its layers, counted from 1, into a student of the same widths."""
    parts: list[tuple[nn.Module, nn.Module]] = [(student.embeddings, teacher.embeddings)]
    parts += [(own, teacher.layers[layer - 1]) for own, layer in zip(student.layers, layers, strict=True)]
    with torch.no_grad():
        for own, other in parts:
            values = dict(other.named_parameters())
            for name, parameter in own.named_parameters():
                # a student may have fewer positions
                parameter.copy_(values[name][: len(parameter)])
