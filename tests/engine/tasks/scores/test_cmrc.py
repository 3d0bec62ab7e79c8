"""Scores of Chinese answers, from the definition of CMRC's scorer."""

import pytest

from unmask.tasks.examples import Answer, QuestionExample
from unmask.tasks.scores.cmrc import score_cmrc, segments_of


def question(name: str, *answers: str) -> QuestionExample:
    return QuestionExample(name, "?", "c", tuple(Answer(one, -1, -1) for one in answers), False, "q.json")


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("《战国无双3》是由光荣", "战 国 无 双 3 是 由 光 荣"),
        ("ω-Force公司", "ωforce 公 司"),
        # a mark that goes parts nothing
        ("Windows 98，MS-DOS", "windows 98msdos"),
        ("约3,500元（2016年）", "约 3,500 元 2016 年"),
        ("3.5%", "3.5 %"),
        ("he isn't here.", "he is n't here ."),
        ('the king\'s "big" (old) mill', "the king 's `` big '' ( old ) mill"),
        ("cannot, gonna", "can not , gon na"),
        ("U.S.", "u.s ."),
        # the scorer's list has a mark of two characters, which no character equals
        ("好……", "好 ……"),
        ("、。！", ""),
        (" ", ""),
    ],
)
def test_answers_are_cut_into_segments(text: str, segments: str) -> None:
    assert segments_of(text) == segments.split()


@pytest.mark.parametrize(
    ("gold", "predicted", "exact", "f1"),
    [
        ("石桥", "石桥。", 1.0, 1.0),
        ("石桥", "桥石", 0.0, 1 / 2),
        # the longest run counts, not all that is shared
        ("一二三四", "一二五三四", 0.0, 2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4)),
        ("石桥", "", 0.0, 0.0),
        ("。", "", 1.0, 0.0),
        ("Nexon 公司", "nexon公司", 0.0, 1.0),
        ("1,410年", "1410年", 0.0, 1 / 2),
    ],
)
def test_f1_is_of_the_longest_common_run(gold: str, predicted: str, exact: float, f1: float) -> None:
    found = score_cmrc([question("a", gold)], {"a": predicted})
    assert found == {"exact": [exact], "f1": [pytest.approx(f1)]}


def test_the_best_gold_answer_counts_and_a_missing_prediction_is_wrong() -> None:
    examples = [question("a", "三座石桥", "石桥"), question("b", "石桥")]
    assert score_cmrc(examples, {"a": "石桥"}) == {"exact": [1.0, 0.0], "f1": [1.0, 0.0]}
