"""The WordPiece tokenizer: trained on a corpus, or read from the folder of any BERT-style model."""

from unmask.data.tokenizer.bert import SPECIAL_TOKENS
from unmask.data.tokenizer.tokenizer import Placed, Tokenizer

__all__ = ["SPECIAL_TOKENS", "Placed", "Tokenizer"]
