"""The heads of transformers' BERT on the packed encoder.

    ForMaskedLM, ForPreTraining        in training with labels, the loss is computed of the labelled tokens alone
    ForSequenceClassification, ForMultipleChoice, ForNextSentencePrediction
                                       read the first token of each document
    ForQuestionAnswering               finds no answer in padding

Other heads run as they are in transformers.

Shapes: B rows of L tokens, S documents, M labelled tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput
from transformers.models.bert import modeling_bert as bert

from unmask.hf.bert_modules import LabelledRows, replace_classes, takes_place, watched
from unmask.hf.deferred import Deferred, DeferredMaskedLMOutput, DeferredPreTrainingOutput
from unmask.model.layer import is_plain
from unmask_kernels import mlm_loss
from unmask_kernels.precision import autocasts

__all__ = ["Head"]


class Head(nn.Module):
    """A head that is made by its class has the replaced encoder, too."""

    bert: Any
    cls: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        replace_classes(self)

    def _reads_labelled(self, *labels: Tensor | None) -> bool:
        """Whether the loss is computed of labelled tokens alone."""
        return (
            self.training
            and all(one is not None for one in labels)
            and not torch.compiler.is_compiling()
            and not any(map(watched, (self.bert, self.cls, self.cls.predictions)))
        )

    def _labelled(self, read: LabelledRows) -> tuple[Tensor, Any]:
        """Return the mean loss of the labelled tokens, and the logits of all, which are not computed yet."""
        predictions = self.cls.predictions
        x = predictions.transform(read.hidden)
        decoder = predictions.decoder
        if is_plain(decoder, nn.Linear):
            summed = mlm_loss(x, None, read.labels, decoder.weight, decoder.bias).loss_sum
        else:
            summed = F.cross_entropy(decoder(x).float(), read.labels, reduction="sum")
        device = x.device.type
        dtype, gradients = torch.get_autocast_dtype(device) if autocasts(device) else None, torch.is_grad_enabled()

        def logits() -> Tensor:
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None), torch.set_grad_enabled(gradients):
                found: Tensor = predictions(read.all_hidden())
            return found

        weights = [*self.bert.encoder.layer[-1].parameters(), *predictions.parameters()]
        return summed / max(1, len(read.labels)), Deferred(logits, weights)


@takes_place
class BertForMaskedLM(Head, bert.BertForMaskedLM):
    """In training with labels, the loss is computed of labelled tokens alone."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the loss and the logits, as the class of transformers does."""
        inputs = (
            *(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds),
            *(encoder_hidden_states, encoder_attention_mask),
        )
        if not self._reads_labelled(labels):
            return super().forward(*inputs, labels, **kwargs)
        as_tuple = _as_tuple(self, kwargs)
        read = self.bert(*inputs, rows_of=labels, **kwargs)
        loss, logits = self._labelled(read)
        output = DeferredMaskedLMOutput(loss=loss, logits=logits, hidden_states=read.hidden_states)
        return output.to_tuple() if as_tuple else output


@takes_place
class BertForPreTraining(Head, bert.BertForPreTraining):
    """In training with both labels, the loss is computed of labelled tokens alone."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the sum of both losses and the logits, as the class of transformers does."""
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        if not self._reads_labelled(labels, next_sentence_label):
            return super().forward(*inputs, labels, next_sentence_label, **kwargs)
        as_tuple = _as_tuple(self, kwargs)
        read = self.bert(*inputs, rows_of=labels, **kwargs)
        loss, logits = self._labelled(read)
        pairs = self.cls.seq_relationship(read.pooled)
        assert next_sentence_label is not None
        loss = loss + F.cross_entropy(pairs.view(-1, 2).float(), next_sentence_label.view(-1))
        output = DeferredPreTrainingOutput(
            loss=loss, prediction_logits=logits, seq_relationship_logits=pairs, hidden_states=read.hidden_states
        )
        return output.to_tuple() if as_tuple else output


def _reading_first(kind: Any) -> Any:
    """Return the forward pass of a head that asks for the first rows only."""

    @functools.wraps(kind.forward)
    def forward(self: Any, *arguments: Any, **options: Any) -> Any:
        if not watched(self.bert):
            options["rows_of"] = "first"
        return kind.forward(self, *arguments, **options)

    return forward


@takes_place
class BertForSequenceClassification(Head, bert.BertForSequenceClassification):
    """Reads the first token of each document."""

    forward = _reading_first(bert.BertForSequenceClassification)


@takes_place
class BertForMultipleChoice(Head, bert.BertForMultipleChoice):
    """Reads the first token of each document."""

    forward = _reading_first(bert.BertForMultipleChoice)


@takes_place
class BertForNextSentencePrediction(Head, bert.BertForNextSentencePrediction):
    """Reads the first token of each document."""

    forward = _reading_first(bert.BertForNextSentencePrediction)


@takes_place
class BertForQuestionAnswering(Head, bert.BertForQuestionAnswering):
    """Finds no answer in padding, so the loss of an example does not depend on the padding of its batch."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the loss and the logits of beginnings and ends, (B, L), the lowest number at padding."""
        as_tuple = _as_tuple(self, kwargs)
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        read = self.bert(*inputs, rows_of="each row", **kwargs)
        logits = self.qa_outputs(read.last_hidden_state)
        if attention_mask is not None:
            logits = logits.masked_fill((attention_mask == 0)[..., None], torch.finfo(logits.dtype).min)
        start, end = (one.squeeze(-1).contiguous() for one in logits.split(1, dim=-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            answers = ((start, start_positions), (end, end_positions))
            first, last = (_answer_loss(logits, places, attention_mask) for logits, places in answers)
            loss = (first + last) / 2
        output = QuestionAnsweringModelOutput(
            loss=loss, start_logits=start, end_logits=end, hidden_states=read.hidden_states
        )
        return output.to_tuple() if as_tuple else output


def _answer_loss(logits: Tensor, places: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the mean loss of places in rows, (B, L) and (B,); those outside of the text of a row do not count."""
    length = logits.shape[1]
    places = places.view(-1).clamp(0, length)
    if attention_mask is not None:
        is_text = F.pad(attention_mask != 0, (0, 1))
        places = places.where(is_text.gather(1, places[:, None])[:, 0], length)
    return F.cross_entropy(logits, places, ignore_index=length)


def _as_tuple(model: Any, options: dict[str, Any]) -> bool:
    """Return whether the outputs are asked for as a tuple, and take that out of the options."""
    asked = options.pop("return_dict", None)
    return not (model.config.return_dict if asked is None else asked)
