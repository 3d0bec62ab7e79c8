"""The model: BERT's encoder over packed documents, and the heads that read it.

Needs PyTorch and NumPy only.
"""

from .config import EncoderConfig
from .encoder import Encoder
from .heads import MLMHead, NSPHead, PretrainingModel

__all__ = ["Encoder", "EncoderConfig", "MLMHead", "NSPHead", "PretrainingModel"]
