"""Where sentences begin, for Latin and CJK punctuation, without a model and without data.

A sentence ends

    at . ! ? … and closing marks (quotes, brackets), if white space follows and no lower-case letter comes next;
    at 。 ！ ？ ； ｡ and closing marks, with or without white space;
    at ! ? or an ellipsis of six dots (……, ⋯⋯) and closing marks, if an ideograph follows at once;
    at a blank line.

Closing marks include 」』”’》）】. After a CJK mark a straight quote closes if an odd number of them stands before it
in the line, else it opens the next sentence. ， 、 ： and the dash —— end nothing. A full stop ends nothing after a
title or a Latin abbreviation (`Dr.`, `e.g.`), after a single capital (`J. Smith`), or inside a number or name, where no
white space follows. A single line break ends nothing: books and docstrings are hard-wrapped. These are rules of thumb;
pairs of sentences, and cuts at sentences, need no more.

A sentence may have any length, and the time is linear in the text: no quantifier of the regular expression gives back
what it took. Cost: 20 MB a second.
"""

import re

__all__ = ["BEFORE_A_START", "sentence_starts"]

BEFORE_A_START = re.compile("[\\s.!?;…⋯。！？；｡\"'”’»)\\]}」』）】》〉]")
"""Matches any character that may stand before a sentence, except the first of a text; in every normal form."""

_CLOSING = r"[\"'”’»)\]}」』）】》〉]*+"
_CJK_CLOSING = r"[”’»)\]}」』）】》〉]*+"
_IDEOGRAPH = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff“‘「『《（【]"
_BOUNDARY = re.compile(
    rf"(?P<latin>(?<![.!?…])[.!?…]++{_CLOSING}\s++)"
    rf"|(?P<cjk>[。！？；｡][…。！？；｡]*+{_CJK_CLOSING})"
    rf"|(?P<tight>(?<![.!?…⋯])(?:…{{2,}}+|⋯{{2,}}+|[!?]++){_CJK_CLOSING}(?={_IDEOGRAPH}))"
    r"|(?P<blank>\n[^\S\n]*+\n\s*+)"
)
# Abbreviations that never end a sentence. `etc.`, `Inc.` and `Jr.` may end one: the capital that follows decides.
_ABBREVIATIONS = frozenset(
    """mr mrs ms mx dr prof rev fr hon gen col maj capt cmdr lt sgt sen rep gov pres st ste mt ft messrs mme
    mlle e.g i.e cf viz vs v al ca approx resp eq eqs fig figs nos vol vols ch chap sec sect ed eds p pp
    jan feb mar apr jun jul aug sep sept oct nov dec""".split()  # noqa: SIM905
)
_LAST_WORD = re.compile(r"[^\s(\[{\"'“‘«]+$")
_WORD_REACH = 16


def sentence_starts(text: str) -> list[int]:
    """Return the character offset of the start of every sentence of `text`, ascending.

    The first sentence starts at the first character that is not white space. Text of white space has no sentence.
    """
    first = len(text) - len(text.lstrip())
    if first == len(text):
        return []
    starts = [first]
    # the straight quotes of a line up to `counted`
    counted = quotes = 0
    for match in _BOUNDARY.finditer(text, first):
        start = match.end()
        if match.lastgroup == "cjk":
            line = text.rfind("\n", counted, start) + 1
            if line:
                counted, quotes = line, 0
            quotes += text.count('"', counted, start)
            counted = start
            if quotes % 2 and text.startswith('"', start):
                start += 1
            while text[start : start + 1].isspace():
                start += 1
        if start >= len(text):
            break
        if match.lastgroup == "latin" and not _ends(text, match.start(), match.group(), start):
            continue
        # a blank line after a CJK mark was skipped with the white space
        if start > starts[-1]:
            starts.append(start)
    return starts


def _ends(text: str, mark: int, matched: str, following: int) -> bool:
    """Whether the Latin mark at `mark`, matched with its white space, ends a sentence before `following`."""
    # a blank line always ends a sentence
    if matched.count("\n") > 1:
        return True
    if text[following].islower():
        return False
    if matched[0] != "." or matched.startswith(".."):
        return True
    before = _LAST_WORD.search(text, max(0, mark - _WORD_REACH), mark)
    if before is None:
        return True
    word = before.group()
    return not (word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word != "I"))
