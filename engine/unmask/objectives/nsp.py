"""Next-sentence prediction (Devlin et al. 2019): does the second segment of a document follow the first?"""

from __future__ import annotations

from .pairs import PairObjective

__all__ = ["NSP"]


class NSP(PairObjective):
    """Label 0: the second segment is what follows the first; 1: it is from somewhere else."""

    name = "nsp"
