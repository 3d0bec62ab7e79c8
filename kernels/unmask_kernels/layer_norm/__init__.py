"""The layer_norm family: bias, dropout, residual and layer norm in one operation."""

from .choice import FAMILY, LayerNormCall
from .op import layer_norm

__all__ = ["FAMILY", "LayerNormCall", "layer_norm"]
