"""The distill family: losses by which a student learns from a teacher."""

from .choice import FAMILY, DistillCall
from .op import attention_relation_loss, attention_score_loss, hidden_state_loss, soft_cross_entropy

__all__ = [
    "FAMILY",
    "DistillCall",
    "attention_relation_loss",
    "attention_score_loss",
    "hidden_state_loss",
    "soft_cross_entropy",
]
