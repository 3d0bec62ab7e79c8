"""The tokenizer: WordPiece trained on a corpus, or WordPiece and WordLevel read from a folder of any model."""

from unmask.data.tokenizer.bert import SPECIAL_TOKENS
from unmask.data.tokenizer.tokenizer import Placed, Tokenizer

__all__ = ["SPECIAL_TOKENS", "Placed", "Tokenizer"]
