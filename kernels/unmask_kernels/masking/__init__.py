"""The masking family: choose the tokens to predict and corrupt them, on the device."""

from .op import FAMILY, MaskedTokens, MaskingCall, masking

__all__ = ["FAMILY", "MaskedTokens", "MaskingCall", "masking"]
