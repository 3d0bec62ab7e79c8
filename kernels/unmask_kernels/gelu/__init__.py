"""The gelu family: a linear layer's bias and the activation behind it, plain or gated."""

from .arguments import ACTIVATIONS, GATED, Activation
from .choice import FAMILY, GeluCall
from .op import gelu

__all__ = ["ACTIVATIONS", "FAMILY", "GATED", "Activation", "GeluCall", "gelu"]
