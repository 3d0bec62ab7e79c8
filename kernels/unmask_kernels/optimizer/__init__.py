"""The optimizer family: one update of all parameters by AdamW, StableAdamW or LAMB."""

from .choice import FAMILY, OptimizerCall
from .op import step

__all__ = ["FAMILY", "OptimizerCall", "step"]
