"""Which scripts lose letters when a vocabulary drops accents, as BERT's "uncased" does.

BERT takes letters apart (NFD) and drops what Unicode calls a non-spacing mark. In Latin and Greek these marks are
accents. In other scripts they are letters or parts of letters: vowels of Devanagari, Bengali, Tamil and Thai, the
voicing of kana (が becomes か), and Hangul falls apart. Different words become one, and no model can tell them apart.

    lost(script) = letters and marks of the script that dropping accents changes

A script is reported if at least 1 in 100 of its letters is lost, and 1 in 1000 letters of the text is of this script.

Cost: 20 MB a second, for at most 10 million characters.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

__all__ = ["letters_lost", "warning_of"]

_LOOKED_AT = 10_000_000
_ACCENTED = {"LATIN", "GREEK", "COMBINING", "MODIFIER", "FULLWIDTH"}
_LEAST_SHARE = 0.01
_TRACE_SHARE = 0.001
# scripts whose letters have the same marks
_TOGETHER = {"HIRAGANA": "KANA", "KATAKANA": "KANA", "HALFWIDTH": "KANA"}


def letters_lost(texts: Iterable[str]) -> dict[str, int]:
    """Count the lost letters of each script that loses many, the most first, in the first 10 million characters."""
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
    """Return the message that says what dropping accents changes, and how to avoid it."""
    scripts = ", ".join(f"{script.capitalize()} {times:,}" for script, times in lost.items())
    return (
        f"dropping accents changes letters of the text that the vocabulary is trained on: {scripts}; keep them with "
        "strip_accents False (--no-strip-accents), which still drops case"
    )


def _script(character: str) -> str | None:
    """Return the script of a letter or mark, the first word of its name; None for other characters."""
    if unicodedata.category(character)[0] not in "LM":
        return None
    name = unicodedata.name(character, "").replace("COMBINING KATAKANA-HIRAGANA", "KATAKANA")
    first = name.partition(" ")[0]
    return _TOGETHER.get(first, first)


def _stripped(character: str) -> str:
    """Return the character as BERT's tokenizer leaves it, except for its case."""
    apart = unicodedata.normalize("NFD", character)
    return "".join(part for part in apart if unicodedata.category(part) != "Mn")
