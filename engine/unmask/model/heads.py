"""What reads the encoder in pre-training: BERT's masked-LM head and next-sentence head.

    MLM   logits = norm(gelu(dense(h))) E^T + b     at masked rows only; E is the encoder's token table (tied)
    NSP   logits = classifier(tanh(pooler(h_[CLS])))     two classes per document; 0 means that B follows A

Shapes: T packed tokens, M masked slots, D hidden, V vocabulary, S documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.batch import PackedBatch
from unmask_kernels import MLMLoss, gelu, mlm_loss

from .config import EncoderConfig
from .encoder import Encoder, Linear, Norm
from .init import initialise

__all__ = ["MLMHead", "NSPHead", "PretrainingModel"]

_HEADS = ("mlm", "nsp")


class MLMHead(nn.Module):
    """BERT's masked-LM head; the output projection is the encoder's token table, passed in."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.norm = Norm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def transform(self, rows: Tensor) -> Tensor:
        """What is projected on the vocabulary, (M, D) -> (M, D)."""
        return self.norm(gelu(*self.dense.apart(rows), activation=self.activation))

    def logits(self, rows: Tensor, table: Tensor) -> Tensor:
        """Scores of all tokens for a few rows, (M, D) -> (M, V); for predictions, not for training."""
        x = self.transform(rows)
        return F.linear(x, table.to(x.dtype), self.bias.to(x.dtype))

    def forward(self, rows: Tensor, labels: Tensor, table: Tensor) -> MLMLoss:
        """Summed loss, count and hits.

        Shapes: rows (M, D), hidden states of the masked tokens; labels (M,); table (V, D).
        """
        return mlm_loss(self.transform(rows), None, labels, table, self.bias)


class NSPHead(nn.Module):
    """BERT's next-sentence head on the pooled [CLS]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.classifier = Linear(config.hidden_size, 2)

    def forward(self, pooled: Tensor) -> Tensor:
        """(S, D) -> (S, 2) logits; class 0: the second segment follows the first."""
        return self.classifier(pooled)


class PretrainingModel(nn.Module):
    """An encoder with its pre-training heads.

    Args:
        config: sizes.
        heads: "mlm", or "mlm" and "nsp".
        compute_dtype, seed: see `Encoder`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        heads: Sequence[str] = ("mlm",),
        compute_dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        unknown = [name for name in heads if name not in _HEADS]
        if unknown or "mlm" not in heads:
            raise ValueError(f"PretrainingModel: heads must be 'mlm' or 'mlm' and 'nsp', got {tuple(heads)}")
        self.config = config
        self.encoder = Encoder(config, compute_dtype=compute_dtype, seed=seed, pooler="nsp" in heads)
        self.mlm = MLMHead(config)
        self.nsp = NSPHead(config) if "nsp" in heads else None
        for part, head in enumerate(filter(None, (self.mlm, self.nsp)), start=1):
            initialise(head, config.initializer_range, seed, part=part)

    def forward(self, batch: PackedBatch, *, rows: Tensor | None = None) -> Tensor:
        """Hidden states of the batch, (T, D), or of some rows of it, (R, D); see `Encoder.forward`."""
        return self.encoder(batch.ids, batch.documents, batch.segments, rows=rows)

    def mlm_loss(self, rows: Tensor, labels: Tensor) -> MLMLoss:
        """Summed masked-LM loss, count and hits of hidden states (M, D) with labels (M,)."""
        return self.mlm(rows, labels, self.encoder.embeddings.word.weight)

    def mlm_logits(self, rows: Tensor) -> Tensor:
        """Scores of all tokens for a few rows of hidden states, (M, D) -> (M, V)."""
        return self.mlm.logits(rows, self.encoder.embeddings.word.weight)

    def nsp_logits(self, rows: Tensor) -> Tensor:
        """Next-sentence scores of hidden states at [CLS], (S, D) -> (S, 2); rows of empty slots mean nothing."""
        if self.nsp is None:
            raise ValueError("PretrainingModel: made without a next-sentence head; make it with heads=('mlm', 'nsp')")
        assert self.encoder.pooler is not None
        return self.nsp(self.encoder.pooler(rows))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, compute_dtype: torch.dtype = torch.float32) -> PretrainingModel:
        """Read a Hugging Face BertForMaskedLM or BertForPreTraining folder; in evaluation mode.

        Raises:
            CheckpointError: a missing file, weights that do not fit, or a feature this model does not have.
        """
        from unmask.interop import hf

        return hf.load_pretraining_model(Path(folder), compute_dtype=compute_dtype)

    def save_pretrained(self, folder: str | Path, *, pad_id: int = 0, for_transformers: bool = True) -> None:
        """Write a folder for `transformers`: BertForMaskedLM, or BertForPreTraining with both heads.

        Args:
            folder: where to; made when it is not there.
            pad_id: the tokenizer's id of [PAD], written to config.json.
            for_transformers: False also writes a causal model or one with local layers, as a folder that only
                `from_pretrained` of this class reads.
        Raises:
            CheckpointError: a model that transformers does not compute, unless `for_transformers` is False.
        """
        from unmask.interop import hf

        hf.save_pretraining_model(self, Path(folder), pad_id=pad_id, for_transformers=for_transformers)
