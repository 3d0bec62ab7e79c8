"""Which scripts lose letters when a vocabulary drops accents, as BERT's "uncased" does.

BERT drops what Unicode calls a non-spacing mark, after taking letters apart (NFD). In Latin and Greek these are
accents. Elsewhere they are letters: vowels of Devanagari, Bengali, Tamil and Thai, the voicing of kana (が becomes か),
and a syllable of Hangul falls apart. So different words become one, and a model cannot tell them apart any more.

    lost(script) = letters and marks of the script that dropping accents changes
    named where at least one in a hundred letters of the script is lost, and the script is more than a trace

Cost: 20 MB a second, of at most 10 million characters.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

__all__ = ["letters_lost", "warning_of"]

_LOOKED_AT = 10_000_000
_ACCENTED = {"LATIN", "GREEK", "COMBINING", "MODIFIER", "FULLWIDTH"}
_LEAST_SHARE = 0.01
_TRACE_SHARE = 0.001
# two scripts whose letters have the same marks
_TOGETHER = {"HIRAGANA": "KANA", "KATAKANA": "KANA", "HALFWIDTH": "KANA"}


def letters_lost(texts: Iterable[str]) -> dict[str, int]:
    """Returns for each script that loses many letters how many these are, the most first.

    Args:
        texts: what a vocabulary is trained on; the first 10 million characters are looked at.
    """
    characters: Counter[str] = Counter()
    left = _LOOKED_AT
    for text in texts:
        characters.update(text[:left])
        left -= len(text)
        if left <= 0:
            break
    letters: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for character, times in characters.items():
        script = _script(character)
        if script is None:
            continue
        letters[script] += times
        if _stripped(character) != character:
            lost[script] += times
    return {
        script: times
        for script, times in lost.most_common()
        if script not in _ACCENTED
        and times >= _LEAST_SHARE * letters[script]
        and letters[script] >= _TRACE_SHARE * letters.total()
    }


def warning_of(lost: Mapping[str, int]) -> str:
    """Returns a line for people: what dropping accents took from the text, and how to keep it."""
    scripts = ", ".join(f"{script.capitalize()} {times:,}" for script, times in lost.items())
    return (
        f"dropping accents changes letters of the text that the vocabulary is trained on: {scripts}; keep them with "
        "strip_accents False (--no-strip-accents), which still drops case"
    )


def _script(character: str) -> str | None:
    """The script of a letter or mark by the first word of its name; None for other characters."""
    if unicodedata.category(character)[0] not in "LM":
        return None
    name = unicodedata.name(character, "").replace("COMBINING KATAKANA-HIRAGANA", "KATAKANA")
    first = name.partition(" ")[0]
    return _TOGETHER.get(first, first)


def _stripped(character: str) -> str:
    """The character as BERT's tokenizer leaves it, case aside."""
    apart = unicodedata.normalize("NFD", character)
    return "".join(part for part in apart if unicodedata.category(part) != "Mn")
