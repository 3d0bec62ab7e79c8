"""What others would run: the compositions and the library that our numbers are compared with.

Peers are written as their users write them, with their own defaults, and never slowed down: `transformers`
gets SDPA attention, the fused AdamW, bf16 autocast over fp32 parameters and its own collator with dynamic
padding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SPECIAL_IDS", "Collator", "TransformersStep", "compiled", "eager_layer_norm"]

SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
"""As in the vocabulary of bert-base-uncased; ordinary ids start at 1,000."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` under torch.compile, for each shape anew.

    After eight shapes it would run eagerly, without a word: here there is no end of shapes, or an error.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1000
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, dynamic=False)


def eager_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, p: float, eps: float) -> Tensor:
    """Dropout, residual and layer norm as a PyTorch user composes them; x and residual (T, D)."""
    return F.layer_norm(residual + F.dropout(x, p), (x.shape[-1],), weight.to(x.dtype), bias.to(x.dtype), eps)


class Collator:
    """DataCollatorForLanguageModeling over a synthetic vocabulary: pads and masks documents of ids."""

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
        """`input_ids`, `attention_mask`, `labels`, (documents, max_length) each; the masks follow from `seed`."""
        torch.manual_seed(seed)
        features = [{"input_ids": ids, "special_tokens_mask": [1, *[0] * (len(ids) - 2), 1]} for ids in documents]
        return dict(self._collate(features))


@dataclass(slots=True)
class TransformersStep:
    """A training step of BertForMaskedLM: forward, loss, backward, clipping at 1, AdamW, as in `Trainer`.

    Fields:
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
        """A freshly initialised model of these sizes."""
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
        """Mean loss over the masked tokens of the batch."""
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast):
            loss: Tensor = self.model(**batch).loss
        return loss

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Update the parameters once; returns the detached loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()

    def saved(self) -> tempfile.TemporaryDirectory[str]:
        """A temporary folder with the model in it; the caller closes it."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = tempfile.TemporaryDirectory(prefix="unmask-peer-")
        self.model.save_pretrained(Path(folder.name))
        return folder
