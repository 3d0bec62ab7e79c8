"""The optimizer family: one update of all parameters by AdamW, StableAdamW or LAMB."""

from .adamw import AdamW
from .choice import FAMILY, OptimizerCall
from .lamb import LAMB
from .op import step

__all__ = ["FAMILY", "LAMB", "AdamW", "OptimizerCall", "step"]
