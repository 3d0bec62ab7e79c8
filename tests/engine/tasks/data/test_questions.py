"""Questions of files: every form, answers at their places in the context, and what is refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advice import follow
from unmask.tasks.data.questions import place_answer, read_questions
from unmask.tasks.examples import QuestionExample

FILES = Path(__file__).parents[1] / "files"


@pytest.mark.parametrize(
    ("file", "questions", "impossible", "answers"),
    [
        ("squad2/dev-v2.0.json", 12, 4, 12),
        ("xquad/xquad.en.json", 10, 0, 10),
        ("drcd/DRCD_dev.json", 10, 0, 10),
        ("cmrc2018/first_form.json", 2, 0, 6),
        ("cjrc/dev.json", 10, 2, 24),
    ],
)
def test_an_official_file_gives_its_questions(file: str, questions: int, impossible: int, answers: int) -> None:
    found = read_questions(FILES / file)
    assert len(found) == len({one.id for one in found}) == questions
    assert sum(one.impossible for one in found) == impossible
    assert sum(len(one.answers) for one in found) == answers
    for one in found:
        assert bool(one.answers) is not one.impossible
        for answer in one.answers:
            # yes and no are no part of a text
            assert (
                answer.start < 0
                if answer.text in ("YES", "NO")
                else one.context[answer.start : answer.end] == answer.text
            )


def test_a_question_names_its_file_and_id() -> None:
    path = FILES / "xquad/xquad.en.json"
    assert read_questions(path)[0].where == f"{path}, question x1"


def test_rows_of_datasets_are_questions(tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    row = {
        "id": "q",
        "title": "t",
        "context": "a b c",
        "question": "b?",
        "answers": {"text": ["b"], "answer_start": [2]},
    }
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": "r", "answers": {"text": [], "answer_start": []}}))
    first, second = read_questions(path)
    assert (first.answers, first.impossible) == ((("b", 2, 3),), False)
    assert (second.answers, second.impossible) == ((), True)


@pytest.mark.parametrize(
    ("context", "text", "start", "place", "kind"),
    [
        ("one two one", "one", 8, (8, 11), "where the file says"),
        ("one two one", "one", 7, (8, 11), "elsewhere"),
        ("one two one", "one", -1, (0, 3), "elsewhere"),
        ("The  Mill", "the mill", 0, (0, 9), "in another spelling"),
        ("ＡＢＣ 公司", "abc公司", 0, (0, 6), "in another spelling"),
        ("one two", "three", 0, (-1, -1), "not in its context"),
        ("NO way", "NO", -1, (-1, -1), "not in its context"),
        ("one", "", 0, (-1, -1), "not in its context"),
        ("one", " ", 0, (-1, -1), "not in its context"),
    ],
)
def test_an_answer_is_found_in_its_context(
    context: str, text: str, start: int, place: tuple[int, int], kind: str
) -> None:
    answer, found = place_answer(context, text, start)
    assert (answer.start, answer.end, found) == (*place, kind)
    assert answer.text == text


@settings(deadline=None)
@given(st.text(min_size=1), st.data())
def test_a_part_of_a_text_is_found_where_it_is(context: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    text = context[start:end]
    assert place_answer(context, text, start)[0] == (text, start, end)
    answer, _ = place_answer(context, text, data.draw(st.integers(-1, len(context) + 2)))
    assert answer.start < 0 or context[answer.start : answer.end] == text


def squad(*answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    given = [{"text": text, "answer_start": start} for text, start in answers]
    qas = [{"id": f"q{number}", "question": "?", "answers": [answer]} | more for number, answer in enumerate(given)]
    return {"data": [{"title": "t", "paragraphs": [{"context": "The mill is old.", "qas": qas}]}]}


def reads(path: Path, value: Any) -> Callable[[], list[QuestionExample]]:
    def read() -> list[QuestionExample]:
        path.write_text(json.dumps(value))
        return read_questions(path)

    return read


def test_answers_that_are_elsewhere_or_nowhere_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "dev.json"
    with caplog.at_level(logging.INFO):
        found = reads(path, squad(("mill", 4), ("mill", 5), ("OLD", 3), ("new", 3)))()
    assert [one.answers[0].start for one in found] == [4, 4, 12, -1]
    assert f"data: answers of {path} that stand elsewhere in their contexts than the file says: 1 of 4" in caplog.text
    assert "in another case, width or spacing: 1" in caplog.text
    assert (
        f"data: answers of {path} that are not in their contexts: 1 of 4, the first is 'new' of {path}" in caplog.text
    )


def test_a_file_in_which_no_answer_is_in_its_context_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    follow(
        reads(path, squad(("new", 3))),
        f"data: {path}: none of 1 answer is in its context, the first is 'new' of {path}, question q0; give each "
        "question the context of its answer",
        reads(path, squad(("old", 12))),
    )


@pytest.mark.parametrize(
    ("value", "needed"),
    [
        ({"rows": []}, "a list of articles in 'data'"),
        ({"data": [3]}, "a list of 'paragraphs'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "'context' and 'qas' in each paragraph"),
        ({"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1}]}]}]}, "'id' and 'question' in each question"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, value: Any, needed: str) -> None:
    path = tmp_path / "dev.json"
    follow(
        reads(path, value),
        f" must have {needed}, as SQuAD has; give a file of that form",
        reads(path, squad(("old", 12))),
    )


def test_rows_of_another_form_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    good = {"context": "a b", "question": "?", "answers": {"text": ["b"], "answer_start": [2]}}
    follow(
        reads(path, {"context": "a b"}),
        f"data: {path}, line 1 must have the columns 'context' and 'question', as SQuAD has; give a file of that form",
        reads(path, good),
    )
    follow(
        reads(path, good | {"answers": ["b"]}),
        "must have lists of 'text' and 'answer_start' in the column 'answers', as SQuAD has; give a file of that form",
        reads(path, good),
    )


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    follow(
        reads(path, {"data": []}),
        f"data: {path} has no question; give a file with at least one",
        reads(path, squad(("old", 12))),
    )
