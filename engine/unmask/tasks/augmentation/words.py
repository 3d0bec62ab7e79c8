"""The words of a text that may be replaced, and the text with other words in their places.

A word is what the tokenizer cuts a text into before it looks for pieces: "didn't go" has didn, ', t and go. A word
without a letter, such as a number or a mark, is never replaced. What stands between words stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmask.data.tokenizer import Tokenizer

__all__ = ["TextWords", "Word", "has_letter", "in_case_of", "replace_words", "words_of"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word in its text.

    Attributes:
        start, end: its first character, and the one after its last.
        token: number of its only token in the text; None if it has several tokens or is unknown.
    """

    start: int
    end: int
    token: int | None


@dataclass(frozen=True, slots=True)
class TextWords:
    """A text, its tokens, and the words that may be replaced."""

    text: str
    ids: list[int]
    words: tuple[Word, ...]

    def spelled(self, word: Word) -> str:
        """Return the characters of a word."""
        return self.text[word.start : word.end]


def words_of(texts: Sequence[str], tokenizer: Tokenizer, keep: frozenset[str] = frozenset()) -> list[TextWords]:
    """Return the words of texts.

    Args:
        texts: the texts.
        tokenizer: of the model that proposes words.
        keep: words in small letters that are never replaced.
    """
    found = []
    for text, placed in zip(texts, tokenizer.encode_with_places(texts), strict=True):
        words = []
        for number in np.unique(placed.words[placed.words >= 0]).tolist():
            tokens = np.flatnonzero(placed.words == number)
            start, end = int(placed.places[tokens, 0].min()), int(placed.places[tokens, 1].max())
            spelled = text[start:end]
            if not has_letter(spelled) or spelled.lower() in keep:
                continue
            known = len(tokens) == 1 and placed.ids[tokens[0]] != tokenizer.unk_id
            words.append(Word(start, end, int(tokens[0]) if known else None))
        found.append(TextWords(text, placed.ids, tuple(words)))
    return found


def replace_words(text: str, words: Sequence[Word], replacements: Sequence[str | None]) -> str:
    """Return the text with other words in the places of these, which are in order; None leaves a word as it is."""
    parts, at = [], 0
    for word, other in zip(words, replacements, strict=True):
        if other is not None:
            parts += [text[at : word.start], other]
            at = word.end
    return "".join([*parts, text[at:]])


def in_case_of(word: str, other: str) -> str:
    """Return `other`, which is in small letters, with capitals where `word` has them: all, or the first."""
    if not word[:1].isupper():
        return other
    return other.upper() if len(word) > 1 and word.isupper() else other[:1].upper() + other[1:]


def has_letter(word: str) -> bool:
    """Return whether a word has a letter of any script."""
    return any(map(str.isalpha, word))
