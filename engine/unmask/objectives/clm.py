"""Causal language modelling over packed documents (as in Zhao et al. 2024, arXiv:2402.13991).

    loss = - sum of log p(id[t + 1] | tokens of the document up to t) over the tokens t that are not its last

The labels come with the batch (`unmask.data.masking.next_token`); the hidden states go through the masked-LM head,
which is what `transformers` calls BertLMHeadModel. Every content token is predicted once, the first of a document from
its [CLS], and so is [SEP]; [CLS] never. The published code predicts a document's first token from the separator of the
one before, which has nothing to do with it; here so only in scope `sequence`, where it sees that document too. The
model must be causal: in a bidirectional one every token would see its answer.
"""

from __future__ import annotations

from torch import Tensor

from unmask.batch import PackedBatch
from unmask.model import PretrainingModel

from .base import Tally
from .tokens import TokenObjective

__all__ = ["CLM"]


class CLM(TokenObjective):
    """The batch's rows are the tokens that have a next one, its labels these next ones."""

    name = "clm"

    def __call__(self, model: PretrainingModel, hidden: Tensor, batch: PackedBatch) -> Tally:
        """Summed loss, hidden (M, D).

        Raises:
            ValueError: the model is not causal.
        """
        if not model.config.causal:
            raise ValueError("clm: the model must be causal, or each token sees its answer; set model.causal to true")
        return TokenObjective.__call__(self, model, hidden, batch)
