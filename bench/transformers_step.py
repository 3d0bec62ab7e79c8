"""A training step of `transformers`, with which ours is compared.

It runs as its users run it, with its own defaults, and is never slowed down: SDPA attention, the fused AdamW, bf16
autocast over fp32 parameters, and its own collator, which pads to the longest document of the batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["SPECIAL_IDS", "Collator", "TransformersStep"]

SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
"""As in the vocabulary of bert-base-uncased; other ids start at 1,000."""


class Collator:
    """DataCollatorForLanguageModeling with a synthetic vocabulary: pads and masks documents of ids."""

    def __init__(self, vocab_size: int, pad_to_multiple_of: int | None = None) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

        names = {id_: token for token, id_ in SPECIAL_IDS.items()}
        vocabulary = {names.get(id_, f"[token{id_}]"): id_ for id_ in range(vocab_size)}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordPiece(vocabulary, unk_token="[UNK]")),
            **{f"{token[1:-1].lower()}_token": token for token in SPECIAL_IDS},
        )
        self._collate = DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=pad_to_multiple_of)

    def __call__(self, documents: Sequence[list[int]], seed: int) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask`, `labels`, each (documents, longest document), masked by `seed`."""
        torch.manual_seed(seed)
        features = [{"input_ids": ids, "special_tokens_mask": [1, *[0] * (len(ids) - 2), 1]} for ids in documents]
        return dict(self._collate(features))


@dataclass(slots=True)
class TransformersStep:
    """A training step of BertForMaskedLM: forward, loss, backward, clipping at 1, AdamW, as in `Trainer`.

    Attributes:
        model: BertForMaskedLM with SDPA attention and fp32 parameters, in training mode.
        optimizer: fused AdamW.
        autocast: whether the forward pass runs under bf16 autocast (`TrainingArguments(bf16=True)`).
    """

    model: Any
    optimizer: torch.optim.Optimizer
    autocast: bool

    @classmethod
    def build(
        cls,
        *,
        vocab: int,
        layers: int,
        hidden: int,
        heads: int,
        intermediate: int,
        max_length: int,
        dropout: float,
        autocast: bool,
        device: torch.device,
        seed: int = 0,
    ) -> TransformersStep:
        """Make a step of a newly initialised model of these sizes."""
        from transformers import BertConfig, BertForMaskedLM

        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=vocab,
            num_hidden_layers=layers,
            hidden_size=hidden,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            max_position_embeddings=max_length,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            attn_implementation="sdpa",
        )
        model = BertForMaskedLM(config).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        return cls(model, optimizer, autocast)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean loss over the masked tokens of the batch, a scalar."""
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast):
            loss: Tensor = self.model(**batch).loss
        return loss

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Update the parameters once and return the detached loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()

    def saved(self) -> tempfile.TemporaryDirectory[str]:
        """Save the model into a temporary folder; the caller removes it."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = tempfile.TemporaryDirectory(prefix="unmask-peer-")
        self.model.save_pretrained(Path(folder.name))
        return folder
