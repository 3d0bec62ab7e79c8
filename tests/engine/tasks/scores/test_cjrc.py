"""Scores of answers in court cases, from the definition of CJRC's scorer."""

import pytest

from unmask.tasks.examples import Answer, QuestionExample
from unmask.tasks.scores.cjrc import score_cjrc


def question(*answers: str) -> QuestionExample:
    return QuestionExample("a", "?", "c", tuple(Answer(one, -1, -1) for one in answers), not answers, "q.json")


@pytest.mark.parametrize(
    ("golds", "predicted", "exact", "f1"),
    [
        # letters and digits count, in any order
        (["五万元。"], "五万元", 1.0, 1.0),
        (["五万元"], "元万五", 0.0, 1.0),
        (["2015年3月"], "2015年", 0.0, 2 * 1 * (5 / 7) / (1 + 5 / 7)),
        # the prediction equals one of three: in one turn of three that one is left out
        (["铜线", "铜线三百米", "三百米铜线"], "铜线", 2 / 3, (1 + 1 + 4 / 7) / 3),
        (["铜线", "铜线"], "铜线", 1.0, 1.0),
        (["铜线", "铁线"], "铜线", 1 / 2, (1 + 1 / 2) / 2),
        ([], "", 1.0, 1.0),
        ([], "铜线", 0.0, 0.0),
        ([], "。", 1.0, 1.0),
        (["铜线"], "", 0.0, 0.0),
        (["YES", "YES", "YES"], "yes", 1.0, 1.0),
    ],
)
def test_each_gold_answer_is_left_out_in_turn(golds: list[str], predicted: str, exact: float, f1: float) -> None:
    found = score_cjrc([question(*golds)], {"a": predicted})
    assert found == {"exact": [pytest.approx(exact)], "f1": [pytest.approx(f1)]}


def test_a_question_without_a_prediction_is_wrong() -> None:
    assert score_cjrc([question("铜线", "铜线"), question()], {}) == {"exact": [0.0, 0.0], "f1": [0.0, 0.0]}
