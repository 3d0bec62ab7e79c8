"""The draws of algorithm 1."""

from __future__ import annotations

from collections import Counter

import pytest

from unmask.tasks.augmentation.variants import draw_variants
from unmask.tasks.augmentation.words import TextWords, Word

TEXT = TextWords("aa bb cc", [5, 6, 7], (Word(0, 2, 0), Word(3, 5, 1), Word(6, 8, 2)))
CANDIDATES = [[f"{word}{number}" for number in range(5)] for word in "ab"] + [[]]


def test_words_are_replaced_at_the_rate_and_each_candidate_as_often() -> None:
    found = draw_variants(TEXT, [[f"x{n}" for n in range(300)], [], []], count=3000, probability=0.4, seed=1)
    # almost no draw comes again, so what is dropped changed nothing
    again = 3000 * 0.4 - len(found.texts)
    assert found.dropped == 3000 - len(found.texts)
    assert abs(len(found.texts) - 300) <= 10, again
    rate = draw_variants(TEXT, [["x"], [], []], count=1, probability=0.4, seed=1)
    assert rate.texts in ((), ("x bb cc",))
    hits = sum(bool(draw_variants(TEXT, [["x"], [], []], count=1, probability=0.4, seed=n).texts) for n in range(2000))
    assert hits / 2000 == pytest.approx(0.4, abs=4 * (0.24 / 2000) ** 0.5)
    drawn = Counter(draw_variants(TEXT, CANDIDATES, count=1, probability=1.0, seed=n).texts[0] for n in range(2500))
    assert len(drawn) == 25
    assert min(drawn.values()) > 60
    assert max(drawn.values()) < 145


def test_with_probability_one_every_word_with_candidates_is_replaced() -> None:
    found = draw_variants(TEXT, CANDIDATES, count=20, probability=1.0, seed=1)
    assert all(text.split()[0][0] == "a" and text.split()[0] != "aa" and text.endswith(" cc") for text in found.texts)
    assert found.replaced == 2 * len(found.texts)


def test_variants_are_different_and_none_is_the_text() -> None:
    found = draw_variants(TEXT, [["aa", "x"], ["bb"], []], count=50, probability=0.7, seed=2)
    assert found.texts == ("x bb cc",)
    assert (found.dropped, found.replaced) == (49, 1)


def test_a_text_without_candidates_has_no_variant() -> None:
    found = draw_variants(TEXT, [[], [], []], count=7, probability=0.4, seed=1)
    assert (found.texts, found.dropped, found.replaced) == ((), 7, 0)


def test_seed_column_and_text_decide_the_draws() -> None:
    def texts(seed: int, column: int = 0) -> tuple[str, ...]:
        return draw_variants(TEXT, CANDIDATES, count=9, probability=0.5, seed=seed, column=column).texts

    assert texts(1) == texts(1)
    assert len({texts(1), texts(2), texts(1, 1)}) == 3
    # fewer draws are the first ones of more
    assert texts(1)[:3] == draw_variants(TEXT, CANDIDATES, count=20, probability=0.5, seed=1).texts[:3]
