"""The masking family: choose the tokens to predict and corrupt them, on the device."""

from .arguments import MaskedTokens
from .choice import FAMILY, MaskingCall
from .op import masking

__all__ = ["FAMILY", "MaskedTokens", "MaskingCall", "masking"]
