"""Scores of English answers, from the definitions of SQuAD's scorers for v1.1 and v2."""

import pytest

from unmask.tasks.examples import Answer, QuestionExample
from unmask.tasks.scores.squad import answer_f1, answers_match, best_threshold, normal_answer, score_squad, score_squad2


def question(name: str, *answers: str) -> QuestionExample:
    return QuestionExample(name, "?", "c", tuple(Answer(one, -1, -1) for one in answers), not answers, "q.json")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Mill!", "mill"),
        ("a an the", ""),
        # punctuation goes before articles are looked for, so A. is one, and the- too
        ("A. the-", ""),
        ("U.S.A.", "usa"),
        ("theory", "theory"),
        ("the\u202fmill\u00a0x", "mill x"),
        # only ASCII punctuation goes
        ("“mill” – 3,5", "“mill” – 35"),
        ("İ", "i\u0307"),
        ("é e\u0301", "é e\u0301"),
        # no word boundary stands between a letter and an article
        ("中the国", "中the国"),
        ("中 the 国", "中 国"),
        ("", ""),
    ],
)
def test_answers_are_made_plain_before_they_are_compared(text: str, normal: str) -> None:
    assert normal_answer(text) == normal


@pytest.mark.parametrize(
    ("gold", "predicted", "v1", "v2"),
    [
        ("the mill", "a mill.", 1.0, 1.0),
        ("mill old mill", "mill mill mill", 2 / 3, 2 / 3),
        ("old mill", "mill", 2 / 3, 2 / 3),
        ("old", "mill", 0.0, 0.0),
        # nothing is shared, yet nothing differs
        ("", "", 0.0, 1.0),
        ("the", "a", 0.0, 1.0),
        ("", "mill", 0.0, 0.0),
        ("mill", "", 0.0, 0.0),
    ],
)
def test_f1_counts_shared_words(gold: str, predicted: str, v1: float, v2: float) -> None:
    assert answer_f1(gold, predicted, empty_may_match=False) == pytest.approx(v1)
    assert answer_f1(gold, predicted, empty_may_match=True) == pytest.approx(v2)


def test_the_best_gold_answer_counts_and_a_missing_prediction_is_wrong() -> None:
    examples = [question("a", "old mill", "mill"), question("b", "mill"), question("c", "the", "mill")]
    found = score_squad(examples, {"a": "the mill", "c": ""})
    assert found == {"exact": [1.0, 0.0, 1.0], "f1": [1.0, 0.0, 0.0]}
    assert answers_match("the", "")


def test_in_v2_gold_answers_without_words_do_not_count() -> None:
    examples = [question("a", "the", "mill"), question("b", "the"), question("c")]
    assert score_squad2(examples, {"a": "", "b": "", "c": ""}) == {"exact": [0.0, 1.0, 1.0], "f1": [0.0, 1.0, 1.0]}
    assert score_squad2(examples, {"a": "mill", "b": "a", "c": "x"}) == {
        "exact": [1.0, 1.0, 0.0],
        "f1": [1.0, 1.0, 0.0],
    }


def test_the_best_threshold_gives_no_answer_where_that_pays() -> None:
    examples = [question("a", "mill"), question("b"), question("c", "oak"), question("d")]
    predictions = {"a": "mill", "b": "x", "c": "oak", "d": "y"}
    odds = {"a": -3.0, "b": 2.0, "c": -1.0, "d": 4.0}
    scores = score_squad2(examples, predictions)["exact"]
    # answers below -1 stay, and the two questions without an answer get ""
    assert best_threshold(examples, predictions, odds, scores) == (100.0, -1.0)
    # answers that are all wrong are best left out
    assert best_threshold(examples, dict.fromkeys("abcd", "z"), odds, [0.0] * 4) == (50.0, 0.0)
    # of equal thresholds the first one counts, and an empty answer costs nothing
    assert best_threshold(examples, predictions | {"b": ""}, odds | {"b": -4.0}, [1.0, 1.0, 1.0, 0.0]) == (100.0, -1.0)
