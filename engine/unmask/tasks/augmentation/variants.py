"""Algorithm 1 of TinyBERT (Jiao et al. 2020): texts in which some words are replaced by their candidates.

    for each of N_a variants, for each word i:   p ~ U(0, 1);   p < p_t: one candidate of i, uniformly;   else: word i

Candidates are found once, for the text as it is. (The printed algorithm would leave [MASK] where p is larger; the
authors' code keeps the word.) A variant that comes again, or is the text itself, is dropped, so there may be fewer.

The numbers are drawn by Philox from the seed, the column and the text. So a text gives the same variants wherever it
stands in a file, and whoever works on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmask.data.randomness import philox_4x32
from unmask.tasks.augmentation.words import TextWords, replace_words

__all__ = ["Variants", "draw_variants"]


@dataclass(frozen=True, slots=True)
class Variants:
    """The variants of a text.

    Attributes:
        texts: different ones, in the order in which they were drawn.
        dropped: draws that came again or changed nothing.
        replaced: words that were replaced in `texts`, all together.
    """

    texts: tuple[str, ...]
    dropped: int
    replaced: int


def draw_variants(
    text: TextWords, candidates: Sequence[Sequence[str]], *, count: int, probability: float, seed: int, column: int = 0
) -> Variants:
    """Draw variants of a text.

    Args:
        text: the text and its W words.
        candidates: of each word, W lists; a word without any stays.
        count: N_a, variants to draw.
        probability: p_t, in (0, 1].
        seed: of the run.
        column: 0, or 1 for the second text of a pair.
    """
    places = [place for place, those in enumerate(candidates) if those]
    words = [text.words[place] for place in places]
    sizes = np.array([len(candidates[place]) for place in places], np.uint64)
    draw, word = np.divmod(np.arange(count * len(words), dtype=np.uint64), max(1, len(words)))
    chance, choice, *_ = philox_4x32(word, draw, 0, 0, *_key(text, seed, column)).reshape(4, count, len(words))
    changes = chance < np.uint64(round(probability * 2**32))
    chosen = (choice * sizes) >> np.uint64(32)
    # a dictionary keeps the order
    found: dict[str, int] = {}
    for change, which in zip(changes, chosen.astype(int), strict=True):
        replacements = [
            candidates[place][index]
            if changed and candidates[place][index] != text.spelled(text.words[place])
            else None
            for place, changed, index in zip(places, change, which, strict=True)
        ]
        replaced = sum(other is not None for other in replacements)
        if replaced:
            found.setdefault(replace_words(text.text, words, replacements), replaced)
    return Variants(tuple(found), count - len(found), sum(found.values()))


def _key(text: TextWords, seed: int, column: int) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{seed} {column} {text.text}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
