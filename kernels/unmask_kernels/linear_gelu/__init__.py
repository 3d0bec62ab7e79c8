"""The linear_gelu family: a linear layer and the activation behind it, plain or gated."""

from .op import FAMILY, LinearGeluCall, linear_gelu

__all__ = ["FAMILY", "LinearGeluCall", "linear_gelu"]
