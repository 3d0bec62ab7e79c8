"""Questions with contexts and answers: SQuAD v1.1 and v2, XQuAD, CMRC 2018, DRCD, CJRC.

    {"data": [{"paragraphs": [{"context": ..., "qas": [{"id", "question", "answers": [{"text", "answer_start"}]}]}]}]}
    [{"context_text": ..., "qas": [{"query_id", "query_text", "answers": ["..."]}]}]        CMRC 2018, first form
    {"id", "question", "context", "answers": {"text": [...], "answer_start": [...]}}        a row of `datasets`

The text of an answer counts, not its place: files have places that are wrong, and CMRC has answers that are nowhere in
their contexts. An answer that does not stand where the file says is searched, first as it is written, then without
regard to case, width and spaces; of several places the nearest one counts. What is found nowhere has the place -1: it
trains nothing, and scores still compare with it.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from unmask.config.settings import counted
from unmask.data.text import decoding
from unmask.data.text.json_text import json_value
from unmask.errors import CorpusError
from unmask.tasks.data.rows import read_rows, suffix_of_location, task_file
from unmask.tasks.examples import Answer, QuestionExample

__all__ = ["place_answer", "read_questions"]

_log = logging.getLogger(__name__)
# the answers of CJRC to questions that are no part of the context
_YES_NO = frozenset({"YES", "NO"})
_EXACT, _MOVED, _SIMILAR, _MISSING = "where the file says", "elsewhere", "in another spelling", "not in its context"


def read_questions(
    location: str | PurePath, *, answered: bool = True, encoding: str = "utf-8"
) -> list[QuestionExample]:
    """Return the questions of a file.

    Says how many answers do not stand where the file says, and warns of those that are not in their contexts.

    Args:
        location: the file, an address, a saved data set or hf://owner/name:split.
        answered: whether this is a file with answers; a question without one is then impossible.
        encoding: of the file.
    Raises:
        CorpusError: the file is missing, is no JSON, or has another form; or no answer is in its context.
    """
    found: list[QuestionExample] = []
    kinds: Counter[str] = Counter()
    missing: list[str] = []
    for question_id, question, context, answers, impossible, place in _questions(location, encoding):
        placed = []
        for text, start in answers:
            answer, kind = place_answer(context, text, start)
            kinds[kind] += 1
            if kind == _MISSING:
                missing.append(f"{text[:40]!r} of {place}")
            placed.append(answer)
        impossible = impossible or (answered and not placed)
        found.append(QuestionExample(question_id, question, context, tuple(placed), impossible, place))
    if not found:
        raise CorpusError(f"data: {location} has no question; give a file with at least one")
    _tell(location, kinds, missing)
    return found


def place_answer(context: str, text: str, start: int) -> tuple[Answer, str]:
    """Return an answer with its place in the context, and how it was found.

    Args:
        context: the text.
        text: the answer.
        start: its first character, as the file says; -1 if it does not say.
    """
    if not text or (start < 0 and text in _YES_NO):
        return Answer(text, -1, -1), _MISSING
    if start >= 0 and context.startswith(text, start):
        return Answer(text, start, start + len(text)), _EXACT
    places = list(_occurrences(context, text))
    if places:
        nearest = min(places, key=lambda place: abs(place - start))
        return Answer(text, nearest, nearest + len(text)), _MOVED
    plain, origins = _plain(context)
    wanted, _ = _plain(text)
    spans = [(origins[place], origins[place + len(wanted) - 1] + 1) for place in _occurrences(plain, wanted)]
    if not spans:
        return Answer(text, -1, -1), _MISSING
    left, right = min(spans, key=lambda span: abs(span[0] - start))
    return Answer(text, left, right), _SIMILAR


def _occurrences(text: str, part: str) -> Iterator[int]:
    place = text.find(part) if part else -1
    while place >= 0:
        yield place
        place = text.find(part, place + 1)


def _plain(text: str) -> tuple[str, list[int]]:
    """Return a text without spaces, case and width, and the place of each character of it in the text."""
    characters: list[str] = []
    origins: list[int] = []
    for place, character in enumerate(text):
        for one in unicodedata.normalize("NFKC", character).casefold():
            if not one.isspace():
                characters.append(one)
                origins.append(place)
    return "".join(characters), origins


_Question = tuple[str, str, str, list[tuple[str, int]], bool, str]


def _questions(location: str | PurePath, encoding: str) -> Iterator[_Question]:
    if suffix_of_location(location) != ".json":
        yield from _flat_questions(location, encoding)
        return
    path = task_file(location)
    with decoding.errors_named(path):
        value = json_value(path, encoding)
    articles = value.get("data") if isinstance(value, dict) else value
    if not isinstance(articles, list):
        raise _other_form(path, "a list of articles in 'data'")
    for number, article in enumerate(articles):
        paragraphs = article.get("paragraphs", [article]) if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            raise _other_form(f"{path}, article {number}", "a list of 'paragraphs'")
        for paragraph in paragraphs:
            yield from _of_paragraph(paragraph, f"{path}, article {number}", path)


def _of_paragraph(paragraph: Any, place: str, path: object) -> Iterator[_Question]:
    context = _first(paragraph, "context", "context_text")
    questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
    if not isinstance(context, str) or not isinstance(questions, list):
        raise _other_form(place, "'context' and 'qas' in each paragraph")
    for one in questions:
        question_id, question = _first(one, "id", "query_id"), _first(one, "question", "query_text")
        if question_id is None or not isinstance(question, str):
            raise _other_form(place, "'id' and 'question' in each question")
        answers = [_answer(given) for given in one.get("answers") or []]
        # CJRC writes the truth value as text
        impossible = str(one.get("is_impossible", False)).lower() == "true"
        yield (
            str(question_id),
            question,
            context,
            [] if impossible else answers,
            impossible,
            f"{path}, question {question_id}",
        )


def _flat_questions(location: str | PurePath, encoding: str) -> Iterator[_Question]:
    for values, place in read_rows(location, lambda cells: True, encoding=encoding):
        context, question = values.get("context"), values.get("question")
        if not isinstance(context, str) or not isinstance(question, str):
            raise _other_form(place, "the columns 'context' and 'question'")
        given = values.get("answers") or {}
        if not isinstance(given, dict) or not isinstance(given.get("text", []), list):
            raise _other_form(place, "lists of 'text' and 'answer_start' in the column 'answers'")
        texts = given.get("text", [])
        starts = given.get("answer_start") or [-1] * len(texts)
        answers = [(str(text), int(start)) for text, start in zip(texts, starts, strict=True)]
        question_id = str(values.get("id", place.rpartition(" ")[2]))
        yield question_id, question, context, answers, False, place


def _answer(given: Any) -> tuple[str, int]:
    if isinstance(given, dict):
        start = given.get("answer_start", -1)
        return str(given.get("text", "")), start if isinstance(start, int) else -1
    return str(given), -1


def _first(holder: Any, *names: str) -> Any:
    return next((holder[name] for name in names if isinstance(holder, dict) and name in holder), None)


def _other_form(place: object, needed: str) -> CorpusError:
    return CorpusError(f"data: {place} must have {needed}, as SQuAD has; give a file of that form")


def _tell(location: str | PurePath, kinds: Counter[str], missing: Sequence[str]) -> None:
    total = sum(kinds.values())
    if missing and len(missing) == total:
        raise CorpusError(
            f"data: {location}: none of {counted(total, 'answer')} is in its context, the first is {missing[0]}; give "
            "each question the context of its answer"
        )
    if kinds[_MOVED] or kinds[_SIMILAR]:
        _log.info(
            f"data: answers of {location} that stand elsewhere in their contexts than the file says: "
            f"{kinds[_MOVED]:,} of {total:,}; in another case, width or spacing: {kinds[_SIMILAR]:,}"
        )
    if missing:
        _log.warning(
            f"data: answers of {location} that are not in their contexts: {len(missing):,} of {total:,}, the first is "
            f"{missing[0]}; they train nothing, and scores still compare with them"
        )
