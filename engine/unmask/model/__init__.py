"""The model: BERT's encoder over packed documents, and its pre-training heads. Needs only PyTorch and NumPy."""

from unmask.config import EncoderConfig
from unmask.model.encoder import Encoder
from unmask.model.heads import MLMHead, NSPHead, PretrainingModel
from unmask.model.pooling import mean_pool

__all__ = ["Encoder", "EncoderConfig", "MLMHead", "NSPHead", "PretrainingModel", "mean_pool"]
