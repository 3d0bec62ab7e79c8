"""The layer_norm family: dropout, residual and layer norm in one operation."""

from .op import FAMILY, LayerNormCall, layer_norm

__all__ = ["FAMILY", "LayerNormCall", "layer_norm"]
