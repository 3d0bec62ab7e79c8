"""BERT's pre-training heads, and `PretrainingModel`, the encoder with its heads.

    MLM   logits = norm(gelu(dense(h))) E^T + b     at masked rows only; E is the encoder's token table (tied)
    NSP   logits = classifier(tanh(pooler(h_[CLS])))     two classes per document; 0 means that B follows A

Shapes: T packed tokens, M slots for masked tokens, R chosen rows, D hidden, V vocabulary, S documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.batch import PackedBatch
from unmask.config import EncoderConfig
from unmask.model.checkpointing import Checkpointed
from unmask.model.encoder import Encoder, initialise, with_dropout
from unmask.model.layer import Linear, Norm, product_and_bias, token_table
from unmask_kernels import MLMLoss, gelu, mlm_loss

if TYPE_CHECKING:
    from unmask.interop.find_model import ModelFolder

__all__ = ["MLMHead", "NSPHead", "PretrainingModel"]


class MLMHead(nn.Module):
    """BERT's masked-LM head. Its output projection is the encoder's token table, which callers pass in."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.norm = Norm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.token_rows))

    def transform(self, rows: Tensor) -> Tensor:
        """Apply the dense layer, GELU and layer norm in front of the projection, (M, D) -> (M, D)."""
        return self.norm(gelu(*product_and_bias(self.dense, rows), activation=self.activation))

    def logits(self, rows: Tensor, table: Tensor) -> Tensor:
        """Return the logits of all tokens, (M, D) -> (M, V). Training uses `forward`, which never stores them."""
        x = self.transform(rows)
        return F.linear(x, table.to(x.dtype), self.bias.to(x.dtype))

    def forward(self, rows: Tensor, labels: Tensor, table: Tensor) -> MLMLoss:
        """Return the summed loss, the count and the number of correct predictions.

        Args:
            rows: hidden states of the masked tokens, (M, D).
            labels: their original ids, int64 (M,), -100 in unused slots.
            table: the encoder's token table, (V, D).
        """
        return mlm_loss(self.transform(rows), None, labels, table, self.bias)


class NSPHead(nn.Module):
    """BERT's next-sentence head on the pooled [CLS]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.classifier = Linear(config.hidden_size, 2)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return two logits a document, (S, D) -> (S, 2). Class 0: segment B follows segment A."""
        return self.classifier(pooled)


class PretrainingModel(Checkpointed):
    """An encoder with its pre-training heads: BERT's masked-LM head, and its next-sentence head if it is asked for.

        model = unmask.PretrainingModel(unmask.EncoderConfig(vocab_size=30_522), heads=("mlm", "nsp"))
        hidden = model(batch, rows=positions)                  # (M, D), the hidden states of the masked tokens
        loss = model.mlm_loss(hidden, labels)                  # loss_sum, count, correct
        model.save_pretrained("folder")                        # a BertForPreTraining of transformers
        model = unmask.PretrainingModel.from_pretrained("folder")

    Args:
        config: sizes and constants.
        heads: "mlm", or "mlm" and "nsp". The next-sentence head comes with the encoder's pooler.
        compute_dtype, seed: see `Encoder`.

    Attributes:
        encoder: the `Encoder`.
        mlm: the masked-LM head, an `MLMHead`; its output projection is the encoder's token table.
        nsp: the next-sentence head, an `NSPHead`, or None. Next sentence and sentence order both use it.
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
        _require_heads(heads)
        self.encoder = Encoder(config, compute_dtype=compute_dtype, seed=seed, pooler="nsp" in heads)
        self.config = self.encoder.config
        self.mlm = MLMHead(config)
        self.nsp = NSPHead(config) if "nsp" in heads else None
        for part, head in enumerate(filter(None, (self.mlm, self.nsp)), start=1):
            initialise(head, config.initializer_range, seed, part=part)

    def forward(self, batch: PackedBatch, *, rows: Tensor | None = None) -> Tensor:
        """Return the hidden states of the batch, (T, D), or of the given rows, (R, D); see `Encoder.forward`."""
        return self.encoder(batch.ids, batch.documents, batch.segments, rows=rows)

    def mlm_loss(self, rows: Tensor, labels: Tensor) -> MLMLoss:
        """Return the summed masked-LM loss, count and correct predictions of hidden states (M, D), labels (M,)."""
        return self.mlm(rows, labels, self._table())

    def mlm_logits(self, rows: Tensor) -> Tensor:
        """Return the masked-LM logits of hidden states, (M, D) -> (M, V)."""
        return self.mlm.logits(rows, self._table())

    def nsp_logits(self, rows: Tensor) -> Tensor:
        """Return the next-sentence logits of the hidden states at [CLS], (S, D) -> (S, 2).

        The rows of empty document slots have no meaning.
        """
        if self.nsp is None:
            raise ValueError(
                "PretrainingModel: it has no next-sentence head; make or read it with heads=('mlm', 'nsp')"
            )
        return self.nsp(self.encoder.pool(rows))

    def get_input_embeddings(self) -> nn.Module:
        """Return the token table, as models of transformers do."""
        return self.encoder.get_input_embeddings()

    def _table(self) -> Tensor:
        return token_table(self.encoder.embeddings.word, self.config.token_rows)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        *,
        revision: str | None = None,
        heads: Sequence[str] | None = None,
        dropout: float | None = None,
        compute_dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> PretrainingModel:
        """Read a run, a checkpoint or a Hugging Face BERT folder with its heads. The model is in evaluation mode.

        A log message names a head of the folder that is left out, and a head that is new.

        Args:
            folder: a run, whose newest whole checkpoint is read, a checkpoint, or the folder of a BertForMaskedLM or
                BertForPreTraining, or the name of such a model of the Hugging Face Hub. With `heads`, also a BertModel.
            revision: branch, tag or commit of a model of the Hub. Default: its newest state.
            heads: "mlm", or "mlm" and "nsp"; a head that the folder lacks gets new weights. Default: the heads of the
                folder, which must have the masked-LM head.
            dropout: see `Encoder.from_pretrained`.
            compute_dtype: see `Encoder`.
            seed: seed of dropout and of the weights of new heads.
        Raises:
            RunError: the run has no checkpoint yet.
            CheckpointError: a file is missing or damaged, the weights do not fit, or the model needs what this one
                lacks.
            HubError: the Hub does not give the model.
            ValueError: dropout is out of range, or there are no such heads.
        """
        from unmask.interop import hf
        from unmask.interop.find_model import find_model

        if heads is not None:
            _require_heads(heads)
        path = find_model(folder, revision=revision).path
        found = hf.read_pretraining_model(path, heads=heads)
        found.difference.log(path)
        model = cls(with_dropout(found.config, dropout), heads=found.heads, compute_dtype=compute_dtype, seed=seed)
        found.copy_into(model)
        return model.eval()

    def save_pretrained(self, folder: str | Path, *, pad_id: int = 0, for_transformers: bool = True) -> None:
        """Write a folder for `transformers`: BertForMaskedLM, or BertForPreTraining with both heads.

        Args:
            folder: where to; made when it is not there.
            pad_id: the tokenizer's id of [PAD], written to config.json.
            for_transformers: with False, a causal model or one with local layers is written too, as a folder that
                only `PretrainingModel.from_pretrained` reads.
        Raises:
            CheckpointError: a model that transformers does not compute, unless `for_transformers` is False.
        """
        from unmask.interop import hf

        architecture = "BertForMaskedLM" if self.nsp is None else "BertForPreTraining"
        hf.save(
            self, self.config, Path(folder), architecture=architecture, pad_id=pad_id, for_transformers=for_transformers
        )


def _require_heads(heads: Sequence[str]) -> None:
    if isinstance(heads, str) or not {"mlm"} <= set(heads) <= {"mlm", "nsp"}:
        raise ValueError(
            f"PretrainingModel: heads must be ('mlm',) or ('mlm', 'nsp'), got {heads!r}; an encoder without heads is "
            "unmask.Encoder"
        )
