"""Taps: states that an encoder hands out beside the result of its forward pass, as distillation needs them.

Shapes: T packed tokens, D hidden, H heads of K elements.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

__all__ = ["Taps"]


class Taps:
    """Which states an encoder keeps of its forward passes, and those of the last one.

        encoder.taps = Taps(hidden=(0, 4), attention=(4,))
        encoder(batch.ids, batch.documents, batch.segments)
        encoder.taps.hidden_states[0]             # the output of the embeddings
        encoder.taps.qkv[4]                       # queries, keys and values of the fourth layer
        encoder.taps = None                       # keep nothing

    A layer has its number from 1; 0 stands for the embeddings, as in the hidden states of `transformers`. The states
    belong to the graph of the forward pass, so gradients flow through them.

    Args:
        hidden: layers whose outputs are kept.
        attention: layers whose queries, keys and values are kept.

    Attributes:
        hidden_states: outputs by the number of the layer, (T, D) each. Of the last layer only the rows that the caller
            asks for, if it asks for rows.
        qkv: queries, keys and values by the number of the layer, (T, 3, H, K) each.
    """

    def __init__(self, *, hidden: Iterable[int] = (), attention: Iterable[int] = ()) -> None:
        self.hidden, self.attention = frozenset(hidden), frozenset(attention)
        self.hidden_states: dict[int, Tensor] = {}
        self.qkv: dict[int, Tensor] = {}

    def clear(self) -> None:
        """Let go of the states of the last forward pass."""
        self.hidden_states, self.qkv = {}, {}

    def place_for(self, layer: int) -> list[Tensor] | None:
        """Return the list for the queries, keys and values of a layer; None if they are not wanted."""
        return [] if layer in self.attention else None

    def take(self, layer: int, hidden: Tensor, qkv: list[Tensor] | None = None) -> None:
        """Keep what is wanted of a layer: its output, (T, D), and what it put into its list."""
        if layer in self.hidden:
            self.hidden_states[layer] = hidden
        if qkv is not None:
            self.qkv[layer] = qkv[0]
