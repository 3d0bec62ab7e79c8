"""Answers from token scores: the best span of all windows, no answer, and what is no answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advice import follow
from unmask.data.tokenizer import Tokenizer
from unmask.tasks.examples import QuestionExample
from unmask.tasks.qa.answers import PredictedAnswer, find_answers
from unmask.tasks.qa.windows import QuestionWindow, make_windows

TOKENIZER = Tokenizer.train(["a b c d e f g h i j k l m n o p q r s t u v w x y z"] * 4, 80)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CONTEXT = " ".join(LETTERS)
EXAMPLE = QuestionExample("id", "a b", CONTEXT, (), False, "q.json")


def windows(max_length: int = 40) -> list[QuestionWindow]:
    return make_windows([EXAMPLE], TOKENIZER, max_length=max_length, stride=5, max_question=4)


def answer(
    high_starts: dict[str, float],
    high_ends: dict[str, float],
    *,
    max_length: int = 40,
    cls: float = 0.0,
    **given: object,
) -> PredictedAnswer:
    """The answer if these letters have high start and end scores in every window."""
    made = windows(max_length)
    starts, ends = [], []
    for window in made:
        for scores, high in ((starts, high_starts), (ends, high_ends)):
            row = np.full(len(window.ids), -10.0, np.float32)
            row[0] = cls
            for place, (start, end) in enumerate(window.places):
                row[window.first + place] = high.get(CONTEXT[start:end], -10.0)
            scores.append(row)
    [found] = find_answers([EXAMPLE], made, starts, ends, **given)  # type: ignore[arg-type]
    return found


def test_the_span_with_the_highest_sum_is_the_answer() -> None:
    found = answer({"c": 4.0, "g": 3.0}, {"e": 2.0, "h": 5.0})
    assert found.text == "c d e f g h" and found.null_odds == 0.0
    assert [(one.text, one.score) for one in found.candidates[:3]] == [
        ("c d e f g h", 9.0),
        ("g h", 8.0),
        ("c d e", 6.0),
    ]
    assert sum(one.probability for one in found.candidates) == pytest.approx(1.0)


def test_an_answer_does_not_end_before_it_starts_and_is_not_too_long() -> None:
    assert answer({"g": 4.0}, {"c": 5.0, "i": 1.0}).text == "g h i"
    assert answer({"c": 4.0}, {"h": 5.0, "e": 1.0}, max_answer=3).text == "c d e"


def test_windows_give_one_answer_and_each_start_counts_once() -> None:
    found = answer({"k": 4.0}, {"m": 4.0}, max_length=13)
    assert found.text == "k l m"
    assert [one.text for one in found.candidates].count("k l m") == 1


def test_no_answer_wins_by_more_than_the_threshold() -> None:
    high = ({"c": 4.0}, {"c": 4.0})
    assert answer(*high, cls=4.5).text == "c"
    found = answer(*high, cls=4.5, may_be_impossible=True)
    assert (found.text, found.null_odds) == ("", 1.0)
    assert found.candidates[0].text == "" and found.candidates[1].text == "c"
    assert answer(*high, cls=4.5, may_be_impossible=True, threshold=1.0).text == "c"
    assert answer(*high, cls=3.5, may_be_impossible=True).text == "c"


def test_a_context_without_tokens_has_no_answer() -> None:
    example = QuestionExample("id", "a", " ", (), False, "q.json")
    made = make_windows([example], TOKENIZER)
    scores = [np.zeros(len(made[0].ids), np.float32)]
    for impossible, odds in ((False, 0.0), (True, float("inf"))):
        [found] = find_answers([example], made, scores, scores, may_be_impossible=impossible)
        assert (found.text, found.null_odds) == ("", odds)


@settings(deadline=None)
@given(st.integers(9, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_answer_is_the_best_of_all_spans(max_length: int, max_answer: int, seed: int) -> None:
    """With all starts and ends: the best span of a window that decides about its first token."""
    rng = np.random.default_rng(seed)
    made = windows(max_length)
    starts = [rng.normal(size=len(one.ids)).astype(np.float32) for one in made]
    ends = [rng.normal(size=len(one.ids)).astype(np.float32) for one in made]
    [found] = find_answers([EXAMPLE], made, starts, ends, best=100, max_answer=max_answer)
    best = max(
        (float(start[one.first + i]) + float(end[one.first + j]), CONTEXT[one.places[i, 0] : one.places[j, 1]])
        for one, start, end in zip(made, starts, ends, strict=True)
        for i in range(len(one.places))
        for j in range(i, min(len(one.places), i + max_answer))
        if one.decides[i]
    )
    assert (found.candidates[0].score, found.text) == best


def test_scores_of_another_length_are_refused() -> None:
    made = windows()
    tokens = len(made[0].ids)
    good, short = np.zeros(tokens, np.float32), np.zeros(tokens - 1, np.float32)
    follow(
        lambda: find_answers([EXAMPLE], made, [short], [good]),
        f"qa: starts and ends must have one score for each of the {tokens} tokens of a window, got {tokens - 1} and "
        f"{tokens}",
        lambda: find_answers([EXAMPLE], made, [good], [good]),
    )
