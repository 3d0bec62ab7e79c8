"""The sizes that a run calls the operations with, as `unmask verify` and `unmask tune` need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from ..capability import INTERPRETING
from ..gelu.arguments import ACTIVATIONS

__all__ = ["Shapes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shapes:
    """Sizes of a run; the defaults are BERT-base, first at 128 tokens, then at 512.

    Attributes:
        dtype: of activations.
        num_layers: L; it decides how many parameters an update has.
        num_heads, head_dim: H and K; the hidden size is their product.
        intermediate_size: F, columns behind the activation.
        vocab_size, num_segments: rows of two tables.
        activation: of the feed-forward layer.
        causal: whether attention is causal.
        windows: of the layers: tokens on either side, None for a global layer.
        hidden_dropout, attention_dropout: in training; without it everything is verified too, for evaluation.
        max_lengths: maximum length of each phase.
        tokens: of the largest case; few in the interpreter, which is slow. Where the memory does not hold a case, it is
            made smaller.
    """

    dtype: torch.dtype = torch.bfloat16
    num_layers: int = 12
    num_heads: int = 12
    head_dim: int = 64
    intermediate_size: int = 3072
    vocab_size: int = 30522
    num_segments: int = 2
    activation: str = "gelu"
    causal: bool = False
    windows: tuple[int | None, ...] = (None,)
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    max_lengths: tuple[int, ...] = (128, 512)
    tokens: int = 64 if INTERPRETING else 4096

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and value < 1:
                raise ValueError(f"verify: {field.name} must be at least 1, got {value}")
            if field.type == "float" and not 0.0 <= value < 1.0:
                raise ValueError(f"verify: {field.name} must be at least 0 and below 1, got {value}")
        if self.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"verify: dtype must be float32, bfloat16 or float16, got {self.dtype}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"verify: activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if any(window is not None and window < 0 for window in self.windows):
            raise ValueError(f"verify: a window must be at least 0, got {self.windows}; None is a global layer")
        if not self.max_lengths or min(self.max_lengths) < 1:
            raise ValueError(f"verify: max_lengths must be at least 1, got {self.max_lengths}")

    @property
    def hidden_size(self) -> int:
        """D."""
        return self.num_heads * self.head_dim

    @property
    def max_length(self) -> int:
        """Maximum length of all phases."""
        return max(self.max_lengths)

    def to_json(self) -> dict[str, Any]:
        """The sizes as values of JSON."""
        return {**asdict(self), "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Shapes:
        """The sizes of what `to_json` has returned."""
        lists = {name: tuple(values[name]) for name in ("windows", "max_lengths")}
        return cls(**{**values, **lists, "dtype": getattr(torch, values["dtype"])})
