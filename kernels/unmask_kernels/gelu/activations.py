"""The activations of the family by name; `reference` says what each computes."""

from __future__ import annotations

from typing import Literal

__all__ = ["ACTIVATIONS", "GATED", "Activation"]

Activation = Literal["gelu", "gelu_tanh", "geglu", "swiglu"]

ACTIVATIONS: tuple[Activation, ...] = ("gelu", "gelu_tanh", "geglu", "swiglu")

GATED: tuple[Activation, ...] = ("geglu", "swiglu")
"""Those that read twice as many columns as they write."""
