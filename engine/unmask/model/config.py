"""EncoderConfig: the sizes of a BERT encoder, with the names of the paper and of Hugging Face."""

import sys
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, cast

__all__ = ["EncoderConfig"]

_SIZES = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions", "num_segments")
# the largest index of 32 bits
_LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Sizes and constants of the encoder; the defaults are BERT-base (Devlin et al. 2019, arXiv:1810.04805).

    Attributes:
        vocab_size: rows of the token table, at least 1.
        hidden_size: width D of a token's state, a multiple of num_heads.
        num_layers: depth L.
        num_heads: heads H of a layer; a head has hidden_size / num_heads elements.
        intermediate_size: width F of the feed-forward layer.
        max_positions: rows of the position table; no document may be longer.
        num_segments: rows of the segment (token type) table, at least 1.
        hidden_dropout: dropout of embeddings and layer outputs, in [0, 1).
        attention_dropout: dropout of attention probabilities, in [0, 1).
        layer_norm_eps: added to the variance, above 0.
        initializer_range: standard deviation of the truncated normal distribution of initial weights, above 0.
        causal: whether a token sees only itself and what comes before it (Zhao et al. 2024, arXiv:2402.13991).
        attention_window: tokens that a token sees on either side in a local layer, at least 1; 64 is ModernBERT's
            `local_attention` of 128 (Warner et al. 2024, arXiv:2412.13663). None: every layer is global, as in BERT.
        global_every: n; with a window, the layers 0, n, 2 n, ... are global. At least 2, or 0: every layer is local.
        activation: "gelu" is the exact form (erf), "gelu_tanh" the approximation of the original TensorFlow code.
            Their outputs differ by about 1e-3.
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
    causal: bool = False
    attention_window: int | None = None
    global_every: int = 3

    def __post_init__(self) -> None:
        for name in _SIZES:
            self._require_whole(name)
            if getattr(self, name) < 1:
                raise ValueError(f"EncoderConfig: {name} must be at least 1, got {getattr(self, name)}")
            if getattr(self, name) > _LARGEST:
                raise ValueError(f"EncoderConfig: {name} must be at most {_LARGEST}, got {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"EncoderConfig: hidden_size must be a multiple of num_heads ({self.num_heads}), got {self.hidden_size}"
            )
        for name in ("hidden_dropout", "attention_dropout", "layer_norm_eps", "initializer_range"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool):
                raise TypeError(f"EncoderConfig: {name} must be a number, got {value!r} ({type(value).__name__})")
            number = cast(float, value)
            if "dropout" in name and not 0 <= number < 1:
                raise ValueError(f"EncoderConfig: {name} must be at least 0 and below 1, got {value}")
            if "dropout" not in name and not 0 < number <= sys.float_info.max:
                raise ValueError(f"EncoderConfig: {name} must be a finite number above 0, got {value}")
        if not isinstance(self.causal, bool):
            raise TypeError(
                f"EncoderConfig: causal must be True or False, got {self.causal!r} ({type(self.causal).__name__})"
            )
        if self.attention_window is not None:
            self._require_whole("attention_window")
            if self.attention_window < 1:
                raise ValueError(
                    f"EncoderConfig: attention_window must be at least 1, or None for global layers, "
                    f"got {self.attention_window}"
                )
        self._require_whole("global_every")
        if self.global_every < 0 or self.global_every == 1:
            raise ValueError(
                f"EncoderConfig: global_every must be at least 2, or 0 to make every layer local, got "
                f"{self.global_every}; attention_window=None makes every layer global"
            )
        if self.activation not in ("gelu", "gelu_tanh"):
            raise ValueError(f"EncoderConfig: activation must be 'gelu' or 'gelu_tanh', got {self.activation!r}")

    def _require_whole(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"EncoderConfig: {name} must be a whole number, got {value!r} ({type(value).__name__})")

    @property
    def head_dim(self) -> int:
        """K, elements of one head."""
        return self.hidden_size // self.num_heads

    def window(self, layer: int) -> int | None:
        """Return the tokens that a token sees on either side in a layer; None for a global layer."""
        is_global = self.global_every > 0 and layer % self.global_every == 0
        return None if is_global else self.attention_window
