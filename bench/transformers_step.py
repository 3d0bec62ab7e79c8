"""A training step of `transformers`, with which ours is compared.

It runs as its users run it and is never slowed down: the fused AdamW, fp32 parameters, and its own collator, which pads
to the longest document of the batch. `Setting` holds what its users choose: the dtype and the implementation of
attention. `fastest` finds the best setting on this machine, and `length_grouped` makes the batches of
`TrainingArguments(train_sampling_strategy="group_by_length")`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench import machine
from bench.documents import BERT_SPECIAL_IDS
from torch import Tensor

__all__ = ["SETTINGS", "Collator", "Setting", "TransformersStep", "fastest", "length_grouped"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What users of `transformers` choose: bf16 is autocast over fp32 parameters, as `TrainingArguments(bf16=True)`."""

    dtype: torch.dtype
    attention: str

    def __str__(self) -> str:
        return f"transformers {machine.SHORT[self.dtype]} {self.attention}"


SETTINGS = [Setting(dtype, attention) for dtype in machine.SHORT for attention in ("sdpa", "eager")]
"""All settings that are tried."""


class Collator:
    """DataCollatorForLanguageModeling with a synthetic vocabulary: pads and masks documents of ids."""

    def __init__(
        self,
        vocab_size: int,
        pad_to_multiple_of: int | None = None,
        special_ids: Mapping[str, int] = BERT_SPECIAL_IDS,
    ) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

        names = {id_: token for token, id_ in special_ids.items()}
        vocabulary = {names.get(id_, f"[token{id_}]"): id_ for id_ in range(vocab_size)}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordPiece(vocabulary, unk_token="[UNK]")),
            **{f"{token[1:-1].lower()}_token": token for token in special_ids},
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
        model: BertForMaskedLM with fp32 parameters, in training mode.
        optimizer: fused AdamW.
        setting: dtype and attention.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    setting: Setting

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
        setting: Setting,
        device: torch.device,
        pad_id: int = 0,
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
            pad_token_id=pad_id,
            attn_implementation=setting.attention,
        )
        model = BertForMaskedLM(config).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        return cls(model, optimizer, setting)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean loss over the masked tokens of the batch, a scalar."""
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.setting.dtype == torch.bfloat16):
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


def fastest(
    try_dtype: Callable[[Setting], float], try_step: Callable[[Setting], float], settings: Sequence[Setting] = SETTINGS
) -> tuple[Setting, dict[str, str]]:
    """Find the fastest setting, and say by name how each of the others did.

    A step in a dtype that the machine emulates can take hundreds of times as long. So a small model is tried first, and
    only dtypes within `CLOSE` of the fastest are tried at full size.

    Args:
        try_dtype: returns the seconds of a step of a small model.
        try_step: returns the seconds of the step that is to be timed; it may raise `torch.OutOfMemoryError`.
        settings: those to choose from.
    """
    small = {dtype: min(try_dtype(s) for s in settings if s.dtype == dtype) for dtype in {s.dtype for s in settings}}
    least = min(small.values())
    told = {
        str(s): f"{small[s.dtype] / least:.0f} times the time, small model"
        for s in settings
        if small[s.dtype] > CLOSE * least
    }
    seconds: dict[Setting, float] = {}
    for setting in settings:
        if str(setting) in told:
            continue
        try:
            seconds[setting] = try_step(setting)
        except torch.OutOfMemoryError:
            told[str(setting)] = "out of memory"
    best = min(seconds, key=seconds.__getitem__)
    times = {str(s): f"{taken / seconds[best]:.2f} times the time" for s, taken in seconds.items() if s != best}
    return best, times | told


CLOSE = 4.0
"""How much longer a small step may take in a dtype that is still tried at full size."""


def length_grouped(lengths: Sequence[int], batch: int, seed: int) -> list[list[int]]:
    """Return the batches of an epoch of `LengthGroupedSampler`: indices of `batch` documents of similar lengths."""
    from transformers.trainer_pt_utils import LengthGroupedSampler

    sampler = LengthGroupedSampler(batch, lengths=list(lengths), generator=torch.Generator().manual_seed(seed))
    order = list(sampler)
    return [order[first : first + batch] for first in range(0, len(order) - batch + 1, batch)]
