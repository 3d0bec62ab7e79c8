"""The mlm_loss family: output projection and cross-entropy at masked positions."""

from .op import FAMILY, MLMLoss, MLMLossCall, mlm_loss

__all__ = ["FAMILY", "MLMLoss", "MLMLossCall", "mlm_loss"]
