"""The words of a text, and their replacement."""

from __future__ import annotations

import pytest

from unmask.data.tokenizer import Tokenizer
from unmask.tasks.augmentation.words import in_case_of, replace_words, words_of


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the cat sat on a wall 7 times , 猫 坐 café"] * 5, 90)


def test_words_have_letters_and_their_places(tokenizer: Tokenizer) -> None:
    (found,) = words_of(["  The cat, sat 7 times on 猫."], tokenizer)
    assert [found.spelled(word) for word in found.words] == ["The", "cat", "sat", "times", "on", "猫"]
    for word in found.words:
        assert word.token is not None
        assert tokenizer.token(found.ids[word.token]) == found.spelled(word).lower()


def test_a_word_of_several_tokens_or_an_unknown_one_has_no_token(tokenizer: Tokenizer) -> None:
    (found,) = words_of(["cat catwall \u13a0 wall"], tokenizer)
    assert [found.spelled(word) for word in found.words if word.token is None] == ["catwall", "\u13a0"]


def test_words_to_keep_are_left_out_in_any_case(tokenizer: Tokenizer) -> None:
    (found,) = words_of(["THE cat"], tokenizer, frozenset({"the"}))
    assert [found.spelled(word) for word in found.words] == ["cat"]


def test_a_text_without_words_is_left_as_it_is(tokenizer: Tokenizer) -> None:
    for found in words_of(["", "7 , 7"], tokenizer):
        assert found.words == ()
        assert replace_words(found.text, found.words, []) == found.text


def test_what_stands_between_words_stays(tokenizer: Tokenizer) -> None:
    text = "  The café,\tcat's  wall "
    (found,) = words_of([text], tokenizer)
    assert replace_words(text, found.words, [None] * len(found.words)) == text
    others = [
        "A" if found.spelled(word) == "The" else "dog" if found.spelled(word) == "cat" else None for word in found.words
    ]
    assert replace_words(text, found.words, others) == "  A café,\tdog's  wall "


@pytest.mark.parametrize(
    ("word", "other", "expected"),
    [("cat", "dog", "dog"), ("Cat", "dog", "Dog"), ("CAT", "dog", "DOG"), ("I", "we", "We"), ("猫", "狗", "狗")],
)
def test_capitals_stay(word: str, other: str, expected: str) -> None:
    assert in_case_of(word, other) == expected
