"""EncoderConfig: the sizes of a BERT encoder, with the names of the paper and of Hugging Face."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from unmask.config.settings import Checked, setting

__all__ = ["EncoderConfig"]

# the largest index of 32 bits
_LARGEST = 2**31 - 1
_SIZES = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions", "num_segments")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig(Checked):
    """Sizes and constants of the encoder (Devlin et al. 2019, arXiv:1810.04805).

    The defaults are BERT-base. A run has smaller ones, those of its recipe `tiny`.
    """

    vocab_size: int | None = setting(
        None, "Rows of the token table, at least as many as the tokenizer has ids. None: in a run, as many.", ge=1
    )
    hidden_size: int = setting(768, "Width of the hidden states (D); a multiple of `num_heads`.", ge=1)
    num_layers: int = setting(12, "Transformer layers (L).", ge=1)
    num_heads: int = setting(12, "Attention heads of a layer (H), each with D / H elements.", ge=1)
    intermediate_size: int = setting(3072, "Width of the feed-forward layer (F).", ge=1)
    max_positions: int = setting(512, "Rows of the position table: the model cannot read longer sequences.", ge=1)
    num_segments: int = setting(2, "Rows of the segment (token type) table.", ge=1)
    hidden_dropout: float = setting(0.1, "Dropout of embeddings and layer outputs.", ge=0, lt=1)
    attention_dropout: float = setting(0.1, "Dropout of attention probabilities.", ge=0, lt=1)
    layer_norm_eps: float = setting(1e-12, "Added to the variance in layer norm.", gt=0)
    initializer_range: float = setting(
        0.02, "Standard deviation of the truncated normal distribution of initial weights.", gt=0
    )
    activation: Literal["gelu", "gelu_tanh"] = setting(
        "gelu",
        "Feed-forward activation: the exact GELU (erf), or its tanh approximation, as in the original TensorFlow code. "
        "Their outputs differ by about 1e-3.",
    )
    causal: bool = setting(
        False,
        "Whether a token sees only itself and what comes before it in its document (Zhao et al. 2024, "
        "arXiv:2402.13991).",
    )
    attention_window: int | None = setting(
        None,
        "Tokens that a token sees on either side in a local layer; 64 is ModernBERT's `local_attention` of 128 (Warner "
        "et al. 2024, arXiv:2412.13663). None: every layer is global, as in BERT.",
        ge=1,
    )
    global_every: int = setting(
        3, "With a window, layers 0, n, 2 n, ... stay global (ModernBERT: 3); 0: every layer is local."
    )

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        for name in _SIZES:
            size = getattr(self, name)
            if size is not None and size > _LARGEST:
                yield name, f"must be at most {_LARGEST}, got {size}"
        if self.hidden_size % self.num_heads:
            nearest = max(1, round(self.hidden_size / self.num_heads)) * self.num_heads
            yield (
                "hidden_size",
                f"must be a multiple of num_heads ({self.num_heads}), got {self.hidden_size}; the nearest is {nearest}",
            )
        if self.global_every < 0 or self.global_every == 1:
            yield (
                "global_every",
                f"must be at least 2, or 0 to make every layer local, got {self.global_every}; leave attention_window "
                "out to make every layer global",
            )

    @property
    def token_rows(self) -> int:
        """Rows of the token table (V).

        Raises:
            ValueError: `vocab_size` is None.
        """
        if self.vocab_size is None:
            raise ValueError("EncoderConfig: vocab_size must be the number of the tokenizer's ids, got nothing")
        return self.vocab_size

    @property
    def head_dim(self) -> int:
        """K, elements of one head."""
        return self.hidden_size // self.num_heads

    def window(self, layer: int) -> int | None:
        """Return the tokens that a token sees on either side in a layer; None for a global layer."""
        is_global = self.global_every > 0 and layer % self.global_every == 0
        return None if is_global else self.attention_window
