"""Windows over a context: spans of answers, and places in the text that the file holds."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advice import follow
from unmask.data.tokenizer import Tokenizer
from unmask.tasks.data.questions import read_questions
from unmask.tasks.examples import Answer, QuestionExample
from unmask.tasks.qa.windows import answer_tokens, make_windows, span_text

FILES = Path(__file__).parents[1] / "files"
TOKENIZER = Tokenizer.train(["a b c d e f g h i j k l m n o p q r s t u v w x y z"] * 4, 80)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# accents, two ways to write them, CJK, emoji, tabs, U+202F, a ligature and characters of no width
CHARACTERS = st.sampled_from(
    [*"abé中国🙂ﬁ ,.(\t\n\r\u202f\u200b\u00a0\u2028", "e\u0301", "\r\n"],
)


def question(
    context: str, *answers: Answer, asked: str = "a b", impossible: bool = False, place: str = "q.json, question 1"
) -> QuestionExample:
    return QuestionExample("id", asked, context, answers, impossible, place)


def test_windows_step_by_stride_and_hold_the_span_where_it_is_whole() -> None:
    context = " ".join(LETTERS)
    start = context.index("k l")
    windows = make_windows(
        [question(context, Answer("k l", start, start + 3))], TOKENIZER, max_length=13, stride=5, max_question=4
    )
    assert [len(one.ids) for one in windows] == [13, 13, 13, 13, 11]
    texts = [context[one.places[0, 0] : one.places[-1, 1]] for one in windows]
    assert [text.replace(" ", "") for text in texts] == ["abcdefgh", "fghijklm", "klmnopqr", "pqrstuvw", "uvwxyz"]
    first = windows[0].first
    assert [one.span for one in windows] == [(0, 0), (first + 5, first + 6), (first, first + 1), (0, 0), (0, 0)]
    assert windows[1].segments == [0] * first + [1] * 9


def test_each_token_is_decided_in_one_window_where_it_has_most_context() -> None:
    windows = make_windows([question(" ".join(LETTERS))], TOKENIZER, max_length=13, stride=5, max_question=4)
    decided = [(int(start) // 2) for one in windows for start, _ in one.places[one.decides]]
    assert sorted(decided) == list(range(26))
    # h, at the end of the first window, has two tokens before it in the second
    assert 7 not in windows[0].places[windows[0].decides, 0] // 2


def test_an_answer_that_is_not_there_and_an_impossible_question_have_the_span_of_cls() -> None:
    examples = [
        question("a b c", Answer("z", -1, -1)),
        question("a b c", Answer("b", 2, 3), impossible=True),
        question("a b c", Answer("z", -1, -1), Answer("b", 2, 3)),
    ]
    spans = [one.span for one in make_windows(examples, TOKENIZER)]
    assert spans == [(0, 0), (0, 0), (5, 5)]


@pytest.mark.parametrize(
    "file",
    ["squad2/dev-v2.0.json", "xquad/xquad.en.json", "drcd/DRCD_dev.json", "cmrc2018/first_form.json", "cjrc/dev.json"],
)
def test_every_answer_of_a_file_is_the_text_of_its_tokens(file: str) -> None:
    """Quotes, U+202F, U+00A0 and Chinese characters among them."""
    examples = read_questions(FILES / file)
    tokenizer = Tokenizer.train([one.context for one in examples], 400)
    recovered = 0
    for one in examples:
        places = tokenizer.encode_with_places([one.context])[0].places
        for answer in one.answers:
            if answer.text in ("YES", "NO"):
                continue
            tokens = answer_tokens(places, answer)
            assert tokens is not None and span_text(one.context, places, *tokens) == answer.text
            recovered += 1
    assert recovered >= 6


@settings(deadline=None)
@given(st.lists(CHARACTERS, min_size=1, max_size=30).map("".join), st.data())
def test_a_span_of_tokens_is_a_part_of_the_text(context: str, data: st.DataObject) -> None:
    """The answer lies in the text of its tokens, and is that text where it begins and ends with tokens."""
    places = TOKENIZER.encode_with_places([context])[0].places
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    found = answer_tokens(places, Answer(context[start:end], start, end))
    if found is None:
        # nothing but what the tokenizer does not read
        assert all(TOKENIZER.encode_batch([character])[0] == [] for character in context[start:end])
        return
    left, right = int(places[found[0], 0]), int(places[found[1], 1])
    read = places[(places[:, 0] >= start) & (places[:, 1] <= end)]
    if start in places[:, 0] and end in places[:, 1]:
        assert context[left:right] == context[start:end]
    assert left < end and right > start
    assert all(left <= one and other <= right for one, other in read)
    assert np.all(np.diff(places[:, 0]) >= 0)


def test_a_long_question_is_cut_and_named(caplog: pytest.LogCaptureFixture) -> None:
    examples = [question("a"), question("a", asked=" ".join(LETTERS), place="q.json, question 2")]
    with caplog.at_level(logging.WARNING):
        windows = make_windows(examples, TOKENIZER, max_length=40, max_question=6)
    assert windows[1].first == 8
    assert (
        "questions of more than 6 tokens, which lose their end: 1 of 2, the first is q.json, question 2" in caplog.text
    )


@pytest.mark.parametrize("part", ["question", "context"])
def test_an_empty_part_is_named_with_its_place(part: str, caplog: pytest.LogCaptureFixture) -> None:
    place = "q.json, question 7"
    wrong = question(" ", place=place) if part == "context" else question("a", asked="\u200b", place=place)
    with caplog.at_level(logging.WARNING):
        [window] = make_windows([wrong], TOKENIZER)
    assert len(window.ids) == {"context": 5, "question": 4}[part] and len(window.places) == (part == "question")
    assert f"questions with an empty text or context: 1 of 1, the first is {place}" in caplog.text


def test_the_text_of_a_span_keeps_marks_after_its_last_letter() -> None:
    context = "cafe\u0301\u0323 b"
    places = TOKENIZER.encode_with_places([context])[0].places
    assert span_text(context, places, 0, len(places) - 2) == "cafe\u0301\u0323"


def test_a_tokenizer_without_places_is_refused() -> None:
    class SlowTokenizer:
        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[1] for _ in texts]

    follow(
        lambda: make_windows([question("a")], SlowTokenizer()),  # type: ignore[arg-type]
        "qa: tokenizer must give the place of each token in its text, which a SlowTokenizer does not; load it with "
        "unmask.Tokenizer.load(FOLDER)",
        lambda: make_windows([question("a")], TOKENIZER),
    )


def test_a_window_without_room_for_a_context_is_refused() -> None:
    follow(
        lambda: make_windows([question("a")], TOKENIZER, max_length=20, max_question=17),
        "qa: max_question must be at least 1 and at most 16, got 17",
        lambda: make_windows([question("a")], TOKENIZER, max_length=20, max_question=16),
    )
