"""EncoderConfig: the sizes of a BERT encoder, with the names of the paper and of Hugging Face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["EncoderConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Sizes and constants of the encoder; the defaults are BERT-base (Devlin et al. 2019, arXiv:1810.04805).

    Attributes:
        vocab_size: rows of the token table, at least 1.
        hidden_size: width D of a token's state, a multiple of num_heads.
        num_layers, num_heads: depth L and heads H; a head has hidden_size / num_heads elements.
        intermediate_size: width F of the feed-forward layer.
        max_positions: rows of the position table; no document may be longer.
        num_segments: rows of the segment (token type) table.
        hidden_dropout, attention_dropout: probabilities in [0, 1).
        layer_norm_eps: added to the variance.
        initializer_range: standard deviation of the truncated normal that weights are drawn from.
        activation: "gelu" is the exact form (erf), "gelu_tanh" the approximation of the original TensorFlow
            code; their outputs differ by about 1e-3.
    """

    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    num_segments: int = 2
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    activation: Literal["gelu", "gelu_tanh"] = "gelu"

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "intermediate_size",
            "max_positions",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"EncoderConfig: {name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"EncoderConfig: hidden_size must be a multiple of num_heads ({self.num_heads}), got {self.hidden_size}"
            )
        for name in ("hidden_dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"EncoderConfig: {name} must be at least 0 and below 1, got {getattr(self, name)}")
        if self.activation not in ("gelu", "gelu_tanh"):
            raise ValueError(f"EncoderConfig: activation must be 'gelu' or 'gelu_tanh', got {self.activation!r}")

    @property
    def head_dim(self) -> int:
        """K, elements of one head."""
        return self.hidden_size // self.num_heads
