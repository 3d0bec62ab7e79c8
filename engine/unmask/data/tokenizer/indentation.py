"""Words of source code: as BERT cuts them, and each line break with the indentation after it.

    "if a:\\n    return b"     if  a  :  "\\n    "  return  b

Other white space separates words and is dropped, as in BERT: spaces within a line and at its end, and what stands
before the first line break. WordPiece cuts the word "\\n    " like any other, so frequent indentations become entries
of their own. An indentation counts up to 99 characters, since a longer word is unknown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

__all__ = ["CHUNKS", "indentation_pre_tokenizer"]

_LINE = r"\n[ \t]{0,99}"
# what BertPreTokenizer makes a word of its own
_MARK = r"!-/:-@\[-`{-~\p{P}"

CHUNKS = re.compile(rf"{_LINE}|\S+")
"""Matches a line break with its indentation, or what stands between white space."""


def indentation_pre_tokenizer() -> tokenizers.pre_tokenizers.PreTokenizer:
    """Return the rule that cuts text into these words, for BERT's normalizer without `clean_text`."""
    from tokenizers import Regex, pre_tokenizers

    words = Regex(rf"{_LINE}|[{_MARK}]|[^\s{_MARK}]+")
    return pre_tokenizers.Split(words, behavior="removed", invert=True)
