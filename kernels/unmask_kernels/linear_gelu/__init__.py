"""The linear_gelu family: a linear layer and the activation behind it, plain or gated."""

from .choice import FAMILY, LinearGeluCall
from .op import linear_gelu, linear_gelu_and_residual

__all__ = ["FAMILY", "LinearGeluCall", "linear_gelu", "linear_gelu_and_residual"]
