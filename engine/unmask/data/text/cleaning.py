"""Cleaning of text, before it is cut into sentences and words; what is removed is counted.

    removed      control characters (Cc), format characters (Cf: soft hyphen, zero-width and direction marks, byte
                 order mark), U+FFFD, which another program wrote for bytes that it could not decode, and halves of
                 surrogate pairs
    replaced     \\r\\n, a lone \\r, form feed, vertical tab, U+0085, U+2028 and U+2029 become a line break
    kept         everything else, white space too; tab and line break do not count as control characters. A character
                 of the above stays if the given tokenizer reads it (`tokenizer/seen_text.py`)
    normalised   to NFC or NFKC if asked for, after the above; the tokenizer decides about case and accents

BERT's tokenizer drops the same characters (tokenization.py, _clean_text), but only after sentences and words have been
found, and a soft hyphen hides a word from a segmenter.

Cost: 100 MB a second; less if text has to be normalised to NFC or NFKC.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import groupby
from typing import Literal, NamedTuple

__all__ = ["BREAKS", "KINDS", "OTHER_BREAKS", "REMOVABLE", "Cleaned", "Normalisation", "clean"]

Normalisation = Literal["none", "NFC", "NFKC"]

OTHER_BREAKS = "\x0b\x0c\x85\u2028\u2029"
"""The characters that end a line, beside \\n, \\r\\n and a lone \\r."""

KINDS = ("control", "format", "replacement")

_CONTROL = "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"
_FORMAT = (
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
    "\U000e0020-\U000e007f"
)
_SURROGATES = "\ud800-\udfff"
_REMOVED = f"{_CONTROL}{_FORMAT}\ufffd"

REMOVABLE = "".join(
    "".join(map(chr, range(ord(part[0]), ord(part[-1]) + 1))) for part in re.findall("(?s:.-.|.)", _REMOVED)
)
"""The characters that are removed, without halves of surrogate pairs, which no tokenizer can read."""

BREAKS = f"\r{OTHER_BREAKS}"
"""The characters that become line breaks."""
# Python sorts the marks on one letter by insertion, in time quadratic in their number
_LONG_MARKS = re.compile(r"[^\w\s\x00-\x7f]{32,}")


class Cleaned(NamedTuple):
    """Cleaned text, and how many characters of each of `KINDS` were removed from it."""

    text: str
    removed: tuple[int, int, int]


def clean(text: str, normalisation: Normalisation = "none", seen: str = "") -> Cleaned:
    """Clean a text by the rules at the head of this file.

    `seen` are characters to keep although a rule removes them, `Tokenizer.seen_characters`.
    """
    unwanted, breaks = _expressions(seen)
    removed = (0, 0, 0)
    found = unwanted.findall(text)
    if found:
        replacement = found.count("\ufffd")
        control = sum(unicodedata.category(character) in ("Cc", "Cs") for character in found)
        removed = (control, len(found) - control - replacement, replacement)
        text = unwanted.sub("", text)
    text = breaks.sub("\n", text)
    if normalisation != "none":
        text = _LONG_MARKS.sub(_in_order, text)
        if not unicodedata.is_normalized(normalisation, text):
            text = unicodedata.normalize(normalisation, text)
    return Cleaned(text, removed)


@lru_cache(maxsize=16)
def _expressions(seen: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return expressions for what is removed and for what becomes a line break, without the characters to keep."""
    kept = f"(?![{re.escape(seen)}])" if seen else ""
    return re.compile(f"{kept}[{_REMOVED}{_SURROGATES}]"), re.compile(f"{kept}(?:\r\n?|[{BREAKS}])")


def _in_order(run: re.Match[str]) -> str:
    """Return the text with its marks in canonical order, so that normalisation has none to move."""
    decomposed = "".join(unicodedata.normalize("NFD", character) for character in run[0])
    parts = groupby(decomposed, key=lambda mark: unicodedata.combining(mark) > 0)
    return "".join("".join(sorted(part, key=unicodedata.combining) if marks else part) for marks, part in parts)
