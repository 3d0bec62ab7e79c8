"""Sentence-order prediction (Lan et al. 2020, arXiv:1909.11942): are two consecutive segments in their order?"""

from __future__ import annotations

from .pairs import PairObjective

__all__ = ["SOP"]


class SOP(PairObjective):
    """Label 0: the second segment is what follows the first; 1: the two have changed places.

    The head is that of next-sentence prediction, so a model trained this way is a BertForPreTraining, whose
    `seq_relationship` tells the order.
    """

    name = "sop"
