"""The mlm_loss family: output projection and cross-entropy at masked positions."""

from .choice import FAMILY, MLMLossCall
from .op import MLMLoss, mlm_loss

__all__ = ["FAMILY", "MLMLoss", "MLMLossCall", "mlm_loss"]
