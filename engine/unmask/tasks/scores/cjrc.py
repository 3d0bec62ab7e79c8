"""Scores of answers in Chinese court cases, as the scorer of CJRC counts them (Duan et al. 2019, arXiv:1912.09156).

Answers are compared by their letters and digits, in small letters; each is a word of the F1. Of several gold answers
each one is left out in turn, the best of the others counts, and the mean over the turns is the score. A question
without a gold answer has the answer "", which "" alone equals. A question without a prediction is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from unmask.tasks.examples import QuestionExample

__all__ = ["score_cjrc"]


def score_cjrc(examples: Sequence[QuestionExample], predictions: Mapping[str, str]) -> dict[str, list[float]]:
    """Return `exact` and `f1` of each question, from 0 to 1.

    Args:
        examples: the questions.
        predictions: the answers by their ids; "" for none.
    """
    exact, f1 = [], []
    for one in examples:
        golds = [_letters(answer.text) for answer in one.answers] or [""]
        predicted = predictions.get(one.id)
        given = None if predicted is None else _letters(predicted)
        exact.append(_mean_of_turns([0.0 if given is None else float(gold == given) for gold in golds]))
        f1.append(_mean_of_turns([0.0 if given is None else _letter_f1(gold, given) for gold in golds]))
    return {"exact": exact, "f1": f1}


def _letters(text: str) -> str:
    return "".join(one for one in text.lower() if one.isdigit() or one.isalpha())


def _letter_f1(gold: str, predicted: str) -> float:
    if not (gold and predicted):
        return float(gold == predicted)
    shared = (Counter(gold) & Counter(predicted)).total()
    if shared == 0:
        return 0.0
    precision, recall = 1.0 * shared / len(predicted), 1.0 * shared / len(gold)
    return (2 * precision * recall) / (precision + recall)


def _mean_of_turns(scores: Sequence[float]) -> float:
    """Return the mean over the gold answers of the best score among the others."""
    if len(scores) == 1:
        return scores[0]
    turns = [max(*scores[:turn], *scores[turn + 1 :], 0.0) for turn in range(len(scores))]
    return sum(turns) / len(turns)
