"""The gelu family: a linear layer's bias and the activation behind it, plain or gated."""

from .activations import ACTIVATIONS, GATED, Activation
from .op import FAMILY, GeluCall, gelu

__all__ = ["ACTIVATIONS", "FAMILY", "GATED", "Activation", "GeluCall", "gelu"]
