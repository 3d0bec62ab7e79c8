"""TaskModel: the encoder with one output layer for a task (Devlin et al. 2019, arXiv:1810.04805, section 4).

    a text       logits = classifier(dropout(tanh(pooler(h_[CLS]))))    (S, K)    BertForSequenceClassification
    its words    logits = classifier(dropout(h_t))                      (R, K)    BertForTokenClassification
    its answer   logits = classifier(h_t)                               (T, 2)    BertForQuestionAnswering

The first reads the [CLS] of each document, the second the first token of each word, the third every token. Only these
rows go through the last layer of the encoder. Dropout in front of the layer is drawn like that of the encoder: it is a
function of seed, document key and position.

Shapes: T packed tokens, S documents, R rows that the layer reads, D hidden, K outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask.config import EncoderConfig
from unmask.config.head import HeadConfig
from unmask.model.checkpointing import Checkpointed
from unmask.model.encoder import Encoder, initialise, with_dropout
from unmask.model.layer import SITES, Linear
from unmask_kernels import philox

if TYPE_CHECKING:
    from unmask.interop.find_model import ModelFolder

__all__ = ["TaskModel"]

# The embeddings use the first site of the layer behind the last one; this site is free.
_HEAD_SITE = 1


class TaskModel(Checkpointed):
    """An encoder with an output layer for a task: classes of texts, a number, tags of words, or answers.

        model = unmask.TaskModel.from_pretrained("runs/sst2")
        rows = model.rows(batch)
        logits = model.logits(model(batch, rows=rows), batch, rows)      # (S, K)
        model.save_pretrained("folder")                                 # a BertForSequenceClassification

    Args:
        config: sizes and constants of the encoder.
        head: the output layer.
        compute_dtype, seed: see `Encoder`.

    Attributes:
        encoder: the `Encoder`; it has a pooler if the layer reads the pooled [CLS].
        classifier: the output layer, D to K.
        head: what the layer predicts, and the names of its classes.
    """

    def __init__(
        self,
        config: EncoderConfig,
        head: HeadConfig,
        *,
        compute_dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(config, compute_dtype=compute_dtype, seed=seed, pooler=head.pools)
        self.config = self.encoder.config
        self.head = head
        self.classifier = Linear(config.hidden_size, head.outputs)
        initialise(self.classifier, config.initializer_range, seed, part=1)

    def forward(self, batch: PackedBatch, *, rows: Tensor | None = None) -> Tensor:
        """Return the hidden states of the batch, (T, D), or of the given rows, (R, D); see `Encoder.forward`."""
        return self.encoder(batch.ids, batch.documents, batch.segments, rows=rows)

    def rows(self, batch: PackedBatch) -> Tensor | None:
        """Return the rows that the layer reads, int64 (R,), or None for all tokens.

        These are the [CLS] of each document, or the first tokens of words, `batch.masked`.
        """
        if self.head.task == "qa":
            return None
        return batch.documents.first_rows()[: batch.real_documents] if self.head.pools else batch.masked

    def logits(self, hidden: Tensor, batch: PackedBatch, rows: Tensor | None = None) -> Tensor:
        """Return the outputs of the layer, (R, D) -> (R, K).

        Args:
            hidden: hidden states of these rows, or of all tokens.
            batch: the batch that they belong to.
            rows: the rows, int64 (R,), as `rows` returns them. Default: all tokens.
        """
        if self.head.pools:
            hidden = self.encoder.pool(hidden)
        p = 0.0 if self.head.task == "qa" else self.head.dropout
        if self.training and p > 0.0:
            keys = batch.documents.row_keys if rows is None else batch.documents.row_keys.index_select(0, rows)
            sites = philox.dropout_keys(self.encoder.dropout_seed, self.config.num_layers + 1, SITES)
            keep = philox.keep_rows(sites[-1, _HEAD_SITE], keys, hidden.shape[1], p)
            hidden = hidden * keep / (1.0 - p)
        return self.classifier(hidden)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        *,
        revision: str | None = None,
        dropout: float | None = None,
        compute_dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> TaskModel:
        """Read a fine-tuned model. The model is in evaluation mode.

        Args:
            folder: a run of `unmask finetune`, whose best checkpoint is read, or the folder of a
                BertForSequenceClassification, BertForTokenClassification or BertForQuestionAnswering, or the name of
                such a model of the Hugging Face Hub.
            revision: branch, tag or commit of a model of the Hub. Default: its newest state.
            dropout: see `Encoder.from_pretrained`.
            compute_dtype, seed: see `Encoder`.
        Raises:
            RunError: the run has no checkpoint yet.
            CheckpointError: a file is missing or damaged, the weights do not fit, or the model has no output layer.
            HubError: the Hub does not give the model.
        """
        from unmask.interop import task_folder
        from unmask.interop.find_model import find_model

        found = task_folder.read_task_model(find_model(folder, revision=revision).path)
        weights = found.weights
        model = cls(with_dropout(weights.config, dropout), found.head, compute_dtype=compute_dtype, seed=seed)
        weights.copy_into(model)
        return model.eval()

    def save_pretrained(self, folder: str | Path, *, pad_id: int = 0) -> None:
        """Write a folder for `transformers`: the class of the task, with the names of its classes.

        Args:
            folder: where to; made when it is not there.
            pad_id: the tokenizer's id of [PAD], written to config.json.
        Raises:
            CheckpointError: the encoder is causal or has local layers, which transformers' BERT does not compute.
        """
        from unmask.interop import task_folder

        task_folder.save_task_model(self, self.config, self.head, Path(folder), pad_id=pad_id)

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the token table, as models of transformers do."""
        return self.encoder.get_input_embeddings()
