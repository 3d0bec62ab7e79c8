"""UnmaskConfig: the config.json of a model with `model_type` "unmask", as a configuration of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from unmask.config import EncoderConfig
from unmask.interop.config_json import MODEL_TYPE, fields_of, parse_config

__all__ = ["UnmaskConfig"]


class UnmaskConfig(PretrainedConfig):
    """Sizes and constants by the names of BertConfig, and what BERT does not have.

    Args:
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act,
            hidden_dropout_prob, attention_probs_dropout_prob, max_position_embeddings, type_vocab_size,
            initializer_range, layer_norm_eps, pad_token_id: as in BertConfig, with its defaults, BERT-base.
        causal, attention_window, global_every: as in `EncoderConfig`.
        others: those of any configuration of transformers.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference = ("pooler_output",)

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        causal: bool = False,
        attention_window: int | None = None,
        global_every: int = 3,
        pad_token_id: int | None = 0,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.causal = causal
        self.attention_window = attention_window
        self.global_every = global_every
        others.pop("tie_word_embeddings", None)
        super().__init__(**others)
        self.pad_token_id = pad_token_id
        self.tie_word_embeddings = True

    @classmethod
    def of(cls, config: EncoderConfig, **others: Any) -> UnmaskConfig:
        """Return the configuration of a model with these sizes."""
        return cls(**fields_of(config), **others)

    def encoder_config(self) -> EncoderConfig:
        """Return the sizes.

        Raises:
            CheckpointError: a value that makes no encoder.
        """
        return parse_config(self.to_dict(), Path(self.name_or_path or "UnmaskConfig"))
