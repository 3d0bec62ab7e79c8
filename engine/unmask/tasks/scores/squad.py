"""Scores of answers in English, in percent: exact match and F1 of SQuAD v1.1, and of v2, where "" may be right.

Two answers match exactly if they are equal once their letters are small, ASCII punctuation is gone, the words a, an and
the are gone, and spaces are single (in this order). F1 is of their words then, each counted as often as both have it.
Of several gold answers the best one counts. A question without a prediction is wrong in v1.1, and left out in v2.

    v1.1   F1 is 0 where no word is shared, also of two empty answers (Rajpurkar et al. 2016, arXiv:1606.05250)
    v2     gold answers without words are left out; if none is left, "" is right (Rajpurkar et al. 2018,
           arXiv:1806.03822)

v2 has the scores of questions with an answer and without one too, and the best threshold: with the null odds of the
predictions, the one under which "" is given to the questions above it with most gain.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from unmask.tasks.examples import QuestionExample

__all__ = ["answer_f1", "answers_match", "best_threshold", "normal_answer", "score_squad", "score_squad2"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal_answer(text: str) -> str:
    """Return an answer in small letters, without punctuation, articles and double spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answers_match(gold: str, predicted: str) -> bool:
    """Return whether two answers match exactly."""
    return normal_answer(gold) == normal_answer(predicted)


def answer_f1(gold: str, predicted: str, *, empty_may_match: bool) -> float:
    """Return the F1 of the words of two answers, from 0 to 1.

    Args:
        gold: the right answer.
        predicted: the other one.
        empty_may_match: whether two answers without words are equal, as in v2.
    """
    right, given = normal_answer(gold).split(), normal_answer(predicted).split()
    if empty_may_match and not (right and given):
        return float(right == given)
    shared = (Counter(given) & Counter(right)).total()
    if shared == 0:
        return 0.0
    precision, recall = 1.0 * shared / len(given), 1.0 * shared / len(right)
    return (2 * precision * recall) / (precision + recall)


def score_squad(examples: Sequence[QuestionExample], predictions: Mapping[str, str]) -> dict[str, list[float]]:
    """Return `exact` and `f1` of each question by the rules of v1.1, from 0 to 1.

    Args:
        examples: questions with at least one gold answer each.
        predictions: the answers by the ids of the questions.
    """
    each = []
    for one in examples:
        golds = [answer.text for answer in one.answers]
        each.append(_best(golds, predictions.get(one.id), empty_may_match=False))
    return _columns(each)


def score_squad2(examples: Sequence[QuestionExample], predictions: Mapping[str, str]) -> dict[str, list[float]]:
    """Return `exact` and `f1` of each question by the rules of v2, from 0 to 1.

    Args:
        examples: questions that all have a prediction.
        predictions: the answers by the ids of the questions; "" for none.
    """
    each = []
    for one in examples:
        golds = [answer.text for answer in one.answers if normal_answer(answer.text)] or [""]
        each.append(_best(golds, predictions[one.id], empty_may_match=True))
    return _columns(each)


def best_threshold(
    examples: Sequence[QuestionExample],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
    scores: Sequence[float],
) -> tuple[float, float]:
    """Return the best score in percent that a threshold of the null odds gives, and the threshold.

    Answers whose null odds are above the threshold become "". The predictions are those without a threshold.

    Args:
        examples: the questions.
        predictions: the answers by the ids of the questions.
        null_odds: how likely there is no answer, likewise; any scale.
        scores: `exact` or `f1` of the questions, from `score_squad2`.
    """
    has_answer = {one.id: bool(one.answers) for one in examples}
    of_question = dict(zip(has_answer, scores, strict=True))
    # all questions get "" before the first one
    current = best = float(sum(not has for has in has_answer.values()))
    threshold = 0.0
    for question in sorted((one for one in null_odds if one in has_answer), key=lambda one: null_odds[one]):
        if has_answer[question]:
            current += of_question[question]
        elif predictions[question]:
            current -= 1
        if current > best:
            best, threshold = current, null_odds[question]
    return 100.0 * best / len(scores), threshold


def _best(golds: Sequence[str], predicted: str | None, *, empty_may_match: bool) -> tuple[float, float]:
    """Return exact match and F1 with the best of the gold answers."""
    if predicted is None:
        return 0.0, 0.0
    return (
        max(float(answers_match(gold, predicted)) for gold in golds),
        max(answer_f1(gold, predicted, empty_may_match=empty_may_match) for gold in golds),
    )


def _columns(each: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    return {"exact": [exact for exact, _ in each], "f1": [f1 for _, f1 in each]}
