"""Training objectives: each scores a batch as a summed loss with its count; the step divides."""

from .base import Objective, Tally, build_objectives, score_batch
from .mlm import MLM
from .nsp import NSP

__all__ = ["MLM", "NSP", "Objective", "Tally", "build_objectives", "score_batch"]
