"""Answers from the scores of tokens: the best spans of all windows of a question, and whether there is no answer.

    score of a span   start score of its first token + end score of its last token
    null score        the least start + end score of [CLS] over the windows: "no answer"

A span lies in the context of one window, begins with a token that the window decides about (`context.py`), ends no
earlier, and has at most `max_answer` tokens. Starts and ends are the `best` best tokens of a window each (Devlin et al.
2019, in their code). The text of a span is a part of the context, by the places of its tokens.

Where questions may have no answer, "" is predicted if the null score exceeds that of the best span by more than
`threshold`; a development set tells the best one (`scores/squad.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmask.config.settings import check_argument
from unmask.tasks.examples import QuestionExample
from unmask.tasks.qa.windows import QuestionWindow, span_text

__all__ = ["Candidate", "PredictedAnswer", "find_answers"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible answer.

    Attributes:
        text: a part of the context; "" for no answer.
        score: start score plus end score.
        probability: its share among the candidates of its question, by the softmax of their scores.
    """

    text: str
    score: float
    probability: float


@dataclass(frozen=True, slots=True)
class PredictedAnswer:
    """The answer to a question.

    Attributes:
        id: of the question.
        text: the answer; "" for none.
        candidates: the best ones, best first, with "" among them where questions may have no answer.
        null_odds: null score minus score of the best span: the higher, the less likely is an answer. 0.0 where a
            question always has one.
    """

    id: str
    text: str
    candidates: tuple[Candidate, ...]
    null_odds: float


def find_answers(
    examples: Sequence[QuestionExample],
    windows: Sequence[QuestionWindow],
    starts: Sequence[NDArray[np.float32]],
    ends: Sequence[NDArray[np.float32]],
    *,
    best: int = 20,
    max_answer: int = 30,
    may_be_impossible: bool = False,
    threshold: float = 0.0,
) -> list[PredictedAnswer]:
    """Return the answer to each question, in their order.

    Args:
        examples: the questions.
        windows: theirs, from `make_windows`.
        starts: start scores of the tokens of each window, (N,).
        ends: end scores, likewise.
        best: number of starts, of ends and of candidates.
        max_answer: most tokens of an answer.
        may_be_impossible: whether questions may have no answer, as in SQuAD v2.
        threshold: what the null score must exceed the best span by, for no answer.
    Raises:
        SettingError: `best` or `max_answer` is less than 1.
        ValueError: a window has another number of scores than tokens.
    """
    check_argument("qa", "best", int, best, ge=1)
    check_argument("qa", "max_answer", int, max_answer, ge=1)
    of_example: dict[int, list[tuple[QuestionWindow, NDArray[np.float32], NDArray[np.float32]]]] = defaultdict(list)
    for window, start, end in zip(windows, starts, ends, strict=True):
        if len(start) != len(window.ids) or len(end) != len(window.ids):
            raise ValueError(
                f"qa: starts and ends must have one score for each of the {len(window.ids)} tokens of a window, got "
                f"{len(start)} and {len(end)}"
            )
        of_example[window.example].append((window, start, end))
    return [
        _answer_of(one, of_example[index], best, max_answer, may_be_impossible, threshold)
        for index, one in enumerate(examples)
    ]


def _answer_of(
    example: QuestionExample,
    scored: list[tuple[QuestionWindow, NDArray[np.float32], NDArray[np.float32]]],
    best: int,
    max_answer: int,
    may_be_impossible: bool,
    threshold: float,
) -> PredictedAnswer:
    spans: list[tuple[float, str]] = []
    null_score = float("inf")
    for window, start, end in scored:
        null_score = min(null_score, float(start[0]) + float(end[0]))
        spans += [
            (score, span_text(example.context, window.places, first, last))
            for score, first, last in _spans(window, start, end, best, max_answer)
        ]
    # a stable order: of equal scores the earlier window and the earlier start count
    spans.sort(key=lambda span: -span[0])
    texts: dict[str, float] = {}
    for score, text in spans:
        if len(texts) < best:
            texts.setdefault(text, score)
    texts.pop("", None)
    odds = 0.0
    chosen = next(iter(texts), "")
    if may_be_impossible:
        # a question without any span has no answer
        odds = null_score - texts[chosen] if texts else float("inf")
        if odds > threshold:
            chosen = ""
        texts[""] = null_score
    candidates = _with_probabilities(texts)
    return PredictedAnswer(example.id, chosen, candidates, odds)


def _spans(
    window: QuestionWindow, start: NDArray[np.float32], end: NDArray[np.float32], best: int, max_answer: int
) -> list[tuple[float, int, int]]:
    """Return score, first and last context token of the spans of a window that may be answers."""
    count = len(window.places)
    firsts, lasts = (_best(scores, best) - window.first for scores in (start, end))
    firsts = firsts[(firsts >= 0) & (firsts < count)]
    firsts = firsts[window.decides[firsts]]
    lasts = lasts[(lasts >= 0) & (lasts < count)]
    length = lasts[None, :] - firsts[:, None] + 1
    rows, columns = np.nonzero((length > 0) & (length <= max_answer))
    offset = window.first
    return [
        (float(start[offset + first]) + float(end[offset + last]), int(first), int(last))
        for first, last in zip(firsts[rows], lasts[columns], strict=True)
    ]


def _best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the places of the highest scores, the highest first; of equal scores the first place counts."""
    return np.argsort(-np.asarray(scores, np.float64), kind="stable")[:count]


def _with_probabilities(texts: dict[str, float]) -> tuple[Candidate, ...]:
    if not texts:
        return ()
    scores = np.array(list(texts.values()))
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    found = [Candidate(text, score, float(share)) for (text, score), share in zip(texts.items(), shares, strict=True)]
    return tuple(sorted(found, key=lambda one: -one.score))
