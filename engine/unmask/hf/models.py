"""The encoder and its pre-training heads as models of transformers: standard inputs, standard outputs, standard files.

    UnmaskModel              last hidden states and BERT's pooler             AutoModel
    UnmaskForMaskedLM        masked-LM loss and logits                        AutoModelForMaskedLM
    UnmaskForPreTraining     and next-sentence loss and logits                AutoModelForPreTraining

They compute what BertModel computes on padded inputs, and what transformers has no class for: flat inputs without
padding, causal encoders, local layers. `save_pretrained` writes the names of BERT's weights, which `unmask.Encoder` and
`unmask.PretrainingModel` read, and `from_pretrained` reads what they write.

With labels, a model in training returns no logits unless `return_logits=True`: the loss is computed at the labelled
tokens alone, and the last layer computes only these after its attention. In evaluation mode it returns them all.

Cost on a GPU: the host waits once for the layout (see `unmask.packed_inputs`), and once for the number of labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput
from transformers.models.bert.modeling_bert import BertForPreTrainingOutput

from unmask.batch import IGNORED
from unmask.hf.configuration import UnmaskConfig
from unmask.hf.pretrained import STANDARD, ReadInputs, UnmaskPreTrainedModel, drawn_seed
from unmask.interop import hf
from unmask.model import Encoder, PretrainingModel

__all__ = ["UnmaskForMaskedLM", "UnmaskForPreTraining", "UnmaskModel"]


class UnmaskModel(UnmaskPreTrainedModel):
    """The encoder.

    Args:
        config: sizes and constants.
        add_pooling_layer: whether the model has BERT's pooler.
    """

    accepts_loss_kwargs = False

    def __init__(self, config: UnmaskConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.model = Encoder(config.encoder_config(), seed=drawn_seed(), pooler=add_pooling_layer)
        self.name_state(pooler=add_pooling_layer)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def _read(cls, folder: Path) -> tuple[hf.FolderWeights, dict[str, Any]]:
        found = hf.read_encoder(folder)
        return found, {"add_pooling_layer": found.pooler}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: int | Tensor | None = None,
        max_length_k: int | Tensor | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Return the hidden states, (B, L, D) with zeros at padding, and the pooled first token of each document.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids, cu_seq_lens_q, cu_seq_lens_k, max_length_q,
                max_length_k: padded or flat inputs, as for `unmask.packed_inputs`.
            return_dict: False returns a tuple.
            others: the entries of a `PackedBatch`, instead of all these.
        Returns:
            last_hidden_state, and pooler_output (S, D), with a row for each document, that is, for each row of a padded
            batch; None without a pooler.
        """
        names = {name: value for name, value in locals().items() if name in STANDARD}
        inputs = self.read_inputs(names, others).inputs
        batch = inputs.batch
        hidden = self.model(batch.ids, batch.documents, batch.segments)
        pooled = None if self.model.pooler is None else self.model.pool(hidden[inputs.first_rows()])
        output = BaseModelOutputWithPooling(last_hidden_state=inputs.restore(hidden), pooler_output=pooled)
        return output.to_tuple() if return_dict is False else output


class UnmaskForMaskedLM(UnmaskPreTrainedModel):
    """The encoder with BERT's masked-LM head.

    Args:
        config: sizes and constants.
    """

    # the Trainer then passes num_items_in_batch
    accepts_loss_kwargs = True

    def __init__(self, config: UnmaskConfig) -> None:
        super().__init__(config)
        self.model = PretrainingModel(config.encoder_config(), seed=drawn_seed())
        self.name_state(heads=("mlm",), pooler=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def _read(cls, folder: Path) -> tuple[hf.FolderWeights, dict[str, Any]]:
        return hf.read_pretraining_model(folder, heads=("mlm",)), {}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: int | Tensor | None = None,
        max_length_k: int | Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_logits: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Return the masked-LM loss and the logits, (B, L, V).

        Args:
            input_ids, attention_mask, token_type_ids, position_ids, cu_seq_lens_q, cu_seq_lens_k, max_length_q,
                max_length_k: padded or flat inputs, as for `unmask.packed_inputs`.
            labels: original ids at the masked tokens, -100 elsewhere, int64 (B, L).
            num_items_in_batch: number of labels of the whole step, by which the summed loss is divided. Default: that
                of this batch.
            return_logits: whether the logits are computed. Default: unless the model is in training and has labels.
            return_dict: False returns a tuple.
            others: the entries of a masked `PackedBatch`, instead of all these.
        """
        names = {name: value for name, value in locals().items() if name in STANDARD}
        given = self.read_inputs(names, others)
        loss, hidden, _ = self._mlm(given, num_items_in_batch, return_logits)
        logits = None if hidden is None else given.inputs.restore(self.model.mlm_logits(hidden))
        output = MaskedLMOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output

    def _mlm(
        self, given: ReadInputs, items: Tensor | int | None, return_logits: bool | None, first: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the loss, the hidden states (T, D) if logits are wanted, and those of the rows `first`."""
        batch, rows, labels = given.inputs.batch, given.rows, given.labels
        if return_logits is None:
            return_logits = not (self.training and labels is not None)
        hidden = read = at_first = None
        if return_logits or rows is None:
            hidden = self.model(batch)
            read = None if rows is None else hidden.index_select(0, rows)
            at_first = None if first is None else hidden.index_select(0, first)
        else:
            wanted = rows if first is None else torch.cat((rows, first))
            read, at_first = self.model(batch, rows=wanted).split([len(rows), len(wanted) - len(rows)])
        loss = None
        if labels is not None:
            assert read is not None
            result = self.model.mlm_loss(read, labels)
            loss = result.loss_sum / (result.count.clamp(min=1) if items is None else items)
        return loss, hidden if return_logits else None, at_first


class UnmaskForPreTraining(UnmaskForMaskedLM):
    """The encoder with BERT's masked-LM and next-sentence heads.

    Args:
        config: sizes and constants.
    """

    def __init__(self, config: UnmaskConfig) -> None:
        UnmaskPreTrainedModel.__init__(self, config)
        self.model = PretrainingModel(config.encoder_config(), heads=("mlm", "nsp"), seed=drawn_seed())
        self.name_state(heads=("mlm", "nsp"), pooler=True)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def _read(cls, folder: Path) -> tuple[hf.FolderWeights, dict[str, Any]]:
        return hf.read_pretraining_model(folder, heads=("mlm", "nsp")), {}

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        *,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: int | Tensor | None = None,
        max_length_k: int | Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_logits: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> BertForPreTrainingOutput | tuple[Any, ...]:
        """Return the sum of both losses, and the logits of both heads.

        Args:
            next_sentence_label: 0 where B follows A, 1 where it does not, -100 for a document without a label, int64
                (S,), for each document: for each row of a padded batch.
            sentence_order_label: the same with sentence order as the task, as ALBERT's argument in `transformers`.
            others: see `UnmaskForMaskedLM.forward`.
        """
        names = {name: value for name, value in locals().items() if name in STANDARD}
        given = self.read_inputs(names, others)
        first = given.inputs.first_rows()
        loss, hidden, at_first = self._mlm(given, num_items_in_batch, return_logits, first)
        assert at_first is not None
        pairs = self.model.nsp_logits(at_first)
        labelled = sentence_order_label if next_sentence_label is None else next_sentence_label
        labels_of_pairs = given.pairs if labelled is None else labelled
        if labels_of_pairs is not None:
            summed = F.cross_entropy(pairs.float(), labels_of_pairs.view(-1), reduction="sum", ignore_index=IGNORED)
            pair_loss = summed / (labels_of_pairs != IGNORED).sum().clamp(min=1)
            loss = pair_loss if loss is None else loss + pair_loss
        logits = None if hidden is None else given.inputs.restore(self.model.mlm_logits(hidden))
        output = BertForPreTrainingOutput(loss=loss, prediction_logits=logits, seq_relationship_logits=pairs)
        return output.to_tuple() if return_dict is False else output
