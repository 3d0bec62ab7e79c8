"""Training objectives: each scores a batch as a summed loss with its count; the step divides."""

from .base import Objective, Tally, build_objectives, score_batch
from .clm import CLM
from .mlm import MLM
from .nsp import NSP
from .sop import SOP

__all__ = ["CLM", "MLM", "NSP", "SOP", "Objective", "Tally", "build_objectives", "score_batch"]
