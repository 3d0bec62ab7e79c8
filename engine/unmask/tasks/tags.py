"""Tags of words and the entities that they mark: the schemes, and what a broken sequence means.

    BIO     B-PER I-PER O       the first word of every entity is B (IOB2)
    IOB1    I-PER I-PER O       B only where an entity of the same type stands right before
    BIOES   B-PER E-PER S-LOC   E is the last word, S the only one
    BMES    B-PER M-PER E-PER   BIOES with M for I

A sequence is read as `conlleval` of CoNLL-2000 reads it (Tjong Kim Sang and Buchholz 2000): nothing is refused, and an
entity begins wherever one can:

    I-PER after O                 begins an entity
    I-LOC after B-PER or I-PER    ends the person and begins a place
    B-PER after I-PER             ends the entity and begins another one

E and S end an entity, so what follows begins one. The end of a sentence ends every entity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

__all__ = ["Entity", "Scheme", "entities_of", "first_break", "scheme_of", "tags_of"]

Scheme = Literal["BIO", "IOB1", "BIOES", "BMES"]

_OUTSIDE = "O"
# the letters of all schemes as those of BIOES
_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "O": "O"}


class Entity(NamedTuple):
    """An entity of a sentence.

    Attributes:
        type: such as PER.
        start: number of its first word.
        end: number of the word after its last one.
    """

    type: str
    start: int
    end: int


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a sentence, in their order, by the rules of `conlleval`.

    A tag is a letter and a type with a hyphen between them; a letter alone has the empty type, and a tag with another
    letter, such as X-PER, is outside.

    Args:
        tags: of any scheme, one for each word.
    """
    found: list[Entity] = []
    start = 0
    before, type_before = _OUTSIDE, ""
    for place, tag in enumerate([*tags, _OUTSIDE]):
        letter, type_ = _parts(tag)
        begins = letter != _OUTSIDE and (
            before in ("O", "E", "S") or letter in ("B", "S") or (before != _OUTSIDE and type_ != type_before)
        )
        if before != _OUTSIDE and (begins or letter == _OUTSIDE):
            found.append(Entity(type_before, start, place))
        if begins:
            start = place
        before, type_before = letter, type_
    return found


def tags_of(entities: Iterable[Entity], words: int, scheme: Scheme = "BIO") -> tuple[str, ...]:
    """Return the tags that mark entities.

    Args:
        entities: of a sentence, in their order; no two share a word.
        words: number of words of the sentence.
        scheme: of the tags.
    """
    tags = [_OUTSIDE] * words
    end_before, type_before = -1, ""
    for type_, start, end in entities:
        first, inside, last, only = "BIES" if scheme == "BIOES" else "BMES" if scheme == "BMES" else "BIIB"
        if scheme == "IOB1":
            first = only = "B" if start == end_before and type_ == type_before else "I"
        letters = [only] if end - start == 1 else [first, *[inside] * (end - start - 2), last]
        tags[start:end] = [f"{letter}-{type_}" if type_ else letter for letter in letters]
        end_before, type_before = end, type_
    return tuple(tags)


def scheme_of(sentences: Iterable[Sequence[str]]) -> Scheme:
    """Return the scheme of the tags of a file, by their letters and by where an entity begins.

    Without an entity of three words nothing tells BMES from BIOES, which is then returned: both mean the same.
    """
    letters: set[str] = set()
    # letters of tags after O, and after the beginning of a sentence
    opening: set[str] = set()
    for tags in sentences:
        before = _OUTSIDE
        for tag in tags:
            letter = tag.partition("-")[0]
            letters.add(letter)
            if before == _OUTSIDE:
                opening.add(letter)
            before = letter
    if "M" in letters:
        return "BMES"
    if letters & {"E", "S", "L", "U"}:
        return "BIOES"
    return "IOB1" if "I" in opening and "B" not in opening else "BIO"


def first_break(tags: Sequence[str], scheme: Scheme) -> int | None:
    """Return the number of the first word whose tag is another one than the scheme has there; None if there is none."""
    good = tags_of(entities_of(tags), len(tags), scheme)
    same = {"L": "E", "U": "S"} if scheme == "BIOES" else {"I": "M"} if scheme == "BMES" else {}
    pairs = enumerate(zip(tags, good, strict=True))
    return next((place for place, (tag, wanted) in pairs if same.get(tag[:1], tag[:1]) + tag[1:] != wanted), None)


def _parts(tag: str) -> tuple[str, str]:
    letter, _, type_ = tag.partition("-")
    known = _LETTERS.get(letter, _OUTSIDE)
    return (known, type_) if known != _OUTSIDE else (_OUTSIDE, "")
