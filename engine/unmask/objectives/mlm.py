"""Masked language modelling (Devlin et al. 2019): predict the original ids at the masked rows."""

from __future__ import annotations

from .tokens import TokenObjective

__all__ = ["MLM"]


class MLM(TokenObjective):
    """The batch's rows are the masked tokens, its labels what stood there."""

    name = "mlm"
