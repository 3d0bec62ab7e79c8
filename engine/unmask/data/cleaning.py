"""Cleans text before it is cut into sentences and words; everything that it takes away is counted.

    removed      control characters (Cc), format characters (Cf: soft hyphen, zero-width and direction marks, byte
                 order mark), U+FFFD, which stands for what somebody else could not decode, and halves of surrogate
                 pairs
    replaced     \\r\\n, a lone \\r, form feed, vertical tab, U+0085, U+2028 and U+2029 by one line break
    kept         all else, white space included; tab and line break are no control characters here
    normalised   to NFC or NFKC when asked, after the above; the tokenizer decides about case and accents anyway

BERT's tokenizer drops the same characters (tokenization.py, _clean_text), but only after sentences and words
have been looked for, and a soft hyphen hides a word from a segmenter. Cost: 100 MB a second, more for NFC and
NFKC of text that is not normalised yet.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, NamedTuple

__all__ = ["KINDS", "OTHER_BREAKS", "Cleaned", "Normalisation", "clean"]

Normalisation = Literal["none", "NFC", "NFKC"]

OTHER_BREAKS = "\x0b\x0c\x85\u2028\u2029"
"""What ends a line beside \\n, \\r\\n and a lone \\r."""

KINDS = ("control", "format", "replacement")

_CONTROL = "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff"
_FORMAT = (
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
    "\U000e0020-\U000e007f"
)
_REMOVED = re.compile(f"[{_CONTROL}{_FORMAT}\ufffd]")
_BREAKS = re.compile(f"\r\n?|[{OTHER_BREAKS}]")


class Cleaned(NamedTuple):
    """Cleaned text, and how many characters of each of `KINDS` were removed from it."""

    text: str
    removed: tuple[int, int, int]


def clean(text: str, normalisation: Normalisation = "none") -> Cleaned:
    """Removes what no tokenizer should see, and says how much that was; the head of this file has the rules."""
    removed = (0, 0, 0)
    found = _REMOVED.findall(text)
    if found:
        replacement = found.count("\ufffd")
        control = sum(unicodedata.category(character) in ("Cc", "Cs") for character in found)
        removed = (control, len(found) - control - replacement, replacement)
        text = _REMOVED.sub("", text)
    text = _BREAKS.sub("\n", text)
    if normalisation != "none" and not unicodedata.is_normalized(normalisation, text):
        text = unicodedata.normalize(normalisation, text)
    return Cleaned(text, removed)
