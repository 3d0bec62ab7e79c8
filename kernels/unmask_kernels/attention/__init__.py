"""The attention family: attention bounded by the documents of a packed row."""

from .arguments import schedule
from .choice import FAMILY, AttentionCall
from .op import attention

__all__ = ["FAMILY", "AttentionCall", "attention", "schedule"]
