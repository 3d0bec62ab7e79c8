"""The scores of a task: gold examples and predictions in, scores in percent with confidence intervals out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from unmask.config.settings import counted
from unmask.errors import CorpusError
from unmask.tasks.examples import Labels, QuestionExample, TextExample, WordsExample
from unmask.tasks.scores.bootstrap import bootstrap
from unmask.tasks.scores.cjrc import score_cjrc
from unmask.tasks.scores.classes import score_classes, score_several
from unmask.tasks.scores.cmrc import score_cmrc
from unmask.tasks.scores.entities import count_entities, score_entities, score_entity_types
from unmask.tasks.scores.numbers import score_numbers
from unmask.tasks.scores.squad import best_threshold, score_squad, score_squad2

__all__ = ["AnswerRules", "Scores", "score_questions", "score_texts", "score_words"]

AnswerRules = Literal["squad", "squad2", "cmrc", "cjrc"]
_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The scores of predictions.

    Attributes:
        values: each score by its name, in percent unless its name says otherwise.
        intervals: lower and upper end of its confidence interval of 95 %, for those that have one.
        examples: number of examples that were scored.
        types: scores of each type of entity.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    examples: int
    types: dict[str, dict[str, float]] = field(default_factory=dict)

    def numbers(self) -> dict[str, Any]:
        """Return all of it for a file of JSON."""
        intervals = {name: list(ends) for name, ends in self.intervals.items()}
        found: dict[str, Any] = {"examples": self.examples, "scores": self.values, "intervals": intervals}
        return found | ({"types": self.types} if self.types else {})

    def lines(self) -> str:
        """Return a line for each score, for people."""
        width = max(map(len, [*self.values, *self.types]))
        lines = []
        for name, value in self.values.items():
            low, high = self.intervals.get(name, (None, None))
            between = "" if low is None else f"  [{low:.2f}, {high:.2f}]"
            lines.append(f"{name:{width}}  {value:6.2f}{between}")
        for name, one in self.types.items():
            shares = "  ".join(f"{score} {one[score]:6.2f}" for score in ("precision", "recall", "f1"))
            lines.append(f"{name:{width}}  {shares}  {one['entities']:,.0f} entities")
        return "\n".join([*lines, f"{counted(self.examples, 'example')}; in brackets: 95 % of the resamples"])


def score_texts(
    examples: Sequence[TextExample],
    predictions: Sequence[int | float | tuple[int, ...]],
    labels: Labels | None,
    *,
    resamples: int = _RESAMPLES,
) -> Scores:
    """Return the scores of classes, of several classes a text, or of numbers.

    Args:
        examples: with labels.
        predictions: for each example what its label is: the index of a class, a number, or indices of classes.
        labels: names of the classes; None: the labels are numbers.
        resamples: of the bootstrap; 0 gives no intervals.
    Raises:
        CorpusError: there is no example, or one without a label.
    """
    gold = [one.label for one in examples]
    _require_gold([one.where for one in examples if one.label is None], len(examples))
    if labels is None:
        wanted, given = (np.array(values, np.float64) for values in (gold, predictions))
        return _scores(lambda rows: score_numbers(wanted[rows], given[rows]), len(gold), resamples)
    if isinstance(gold[0], tuple):
        sets = [_as_table(values, len(labels)) for values in (gold, predictions)]
        return _scores(lambda rows: score_several(sets[0][rows], sets[1][rows]), len(gold), resamples)
    right, found = (np.array(values, np.int64) for values in (gold, predictions))
    return _scores(lambda rows: score_classes(right[rows], found[rows], len(labels)), len(gold), resamples)


def score_words(
    examples: Sequence[WordsExample], predictions: Sequence[Sequence[str]], *, resamples: int = _RESAMPLES
) -> Scores:
    """Return the scores of entities.

    Args:
        examples: sentences with tags.
        predictions: a tag for each word of each sentence, in any scheme.
        resamples: of the bootstrap over sentences; 0 gives no intervals.
    Raises:
        CorpusError: there is no sentence, or one without tags.
    """
    _require_gold([one.where for one in examples if one.tags is None], len(examples))
    counts = [count_entities(one.tags or (), tags) for one, tags in zip(examples, predictions, strict=True)]
    table = np.array([one.totals for one in counts], np.int64)
    scores = _scores(lambda rows: score_entities(table[rows].sum(0)), len(examples), resamples)
    return Scores(
        values=scores.values, intervals=scores.intervals, examples=scores.examples, types=score_entity_types(counts)
    )


def score_questions(
    examples: Sequence[QuestionExample],
    predictions: Mapping[str, str],
    *,
    rules: AnswerRules = "squad",
    null_odds: Mapping[str, float] | None = None,
    resamples: int = _RESAMPLES,
) -> Scores:
    """Return exact match and F1 of answers.

    Args:
        examples: questions with gold answers; in v2 those without one are impossible.
        predictions: the answers by the ids of the questions.
        rules: of SQuAD v1.1, of v2 with its splits, of CMRC 2018, or of CJRC.
        null_odds: of v2, by the ids of the questions: gives the best threshold. The predictions are then those without
            a threshold.
        resamples: of the bootstrap over questions; 0 gives no intervals.
    Raises:
        CorpusError: there is no question, one has no gold answer, or, in v2, none has a prediction.
    """
    if rules == "squad2":
        examples = [one for one in examples if one.id in predictions]
    unanswered = [one.where for one in examples if not one.answers and rules not in ("squad2", "cjrc")]
    _require_gold(unanswered, len(examples))
    score = {"squad": score_squad, "squad2": score_squad2, "cmrc": score_cmrc, "cjrc": score_cjrc}[rules]
    each = score(examples, predictions)
    exact, f1 = (np.array(each[name], np.float64) for name in ("exact", "f1"))
    answered = np.array([bool(one.answers) for one in examples])

    def of(rows: Any) -> dict[str, float]:
        found = {"exact": _mean(exact[rows]), "f1": _mean(f1[rows])}
        if rules == "cmrc":
            found["average"] = (found["exact"] + found["f1"]) * 0.5
        if rules == "squad2":
            for name, part in (("has_answer", answered[rows]), ("no_answer", ~answered[rows])):
                if part.any():
                    found |= {f"{name}_exact": _mean(exact[rows][part]), f"{name}_f1": _mean(f1[rows][part])}
        return found

    scores = _scores(of, len(examples), resamples)
    if rules == "squad2" and null_odds is not None:
        for name in ("exact", "f1"):
            best, threshold = best_threshold(examples, predictions, null_odds, each[name])
            scores.values[f"best_{name}"] = best
            scores.values[f"best_{name}_threshold"] = threshold
    return scores


def _scores(score: Any, examples: int, resamples: int) -> Scores:
    whole = np.arange(examples)
    return Scores(
        values=dict(score(whole)), intervals=bootstrap(score, examples, resamples=resamples), examples=examples
    )


def _mean(values: Any) -> float:
    # `cumsum` adds one after the other, as the official scorers do
    return 100.0 * float(np.cumsum(values)[-1]) / len(values)


def _as_table(values: Sequence[Any], classes: int) -> Any:
    table = np.zeros((len(values), classes), np.bool_)
    for row, indices in enumerate(values):
        table[row, list(indices)] = True
    return table


def _require_gold(without: list[str], examples: int) -> None:
    if not examples:
        raise CorpusError("score: there must be at least one example with a prediction, got none")
    if without:
        raise CorpusError(
            f"score: examples without a gold label: {len(without):,} of {examples:,}, the first is {without[0]}; "
            "give a file with labels"
        )
