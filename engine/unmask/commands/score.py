"""`score`: the scores of a file of predictions, as the official scorer of its benchmark counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unmask.config.settings import check_argument
from unmask.data.text import decoding
from unmask.data.text.json_text import json_value
from unmask.errors import CorpusError
from unmask.tasks.benchmarks import benchmark_of
from unmask.tasks.data.layouts import TextLayout, layout_of_columns
from unmask.tasks.data.questions import read_questions
from unmask.tasks.data.rows import task_file
from unmask.tasks.data.texts import find_labels, read_texts
from unmask.tasks.data.words import WordsLayout, read_sentences
from unmask.tasks.examples import Labels, WordsExample
from unmask.tasks.predictions import predicted_answers, predicted_labels, predicted_names, predicted_tags
from unmask.tasks.scores.scoring import AnswerRules, Scores, score_questions, score_texts, score_words
from unmask.tasks.tags import entities_of, scheme_of, tags_of

__all__ = ["score"]


def score(
    task: str,
    gold: str | Path,
    predictions: str | Path,
    *,
    label: str | None = None,
    id: str | None = None,
    separator: str | None = None,
    rules: AnswerRules | None = None,
    null_odds: str | Path | None = None,
    encoding: str = "utf-8",
    resamples: int = 1000,
) -> Scores:
    """Return the scores of predictions.

    Example:
        >>> import unmask
        >>> found = unmask.score("sst2", "dev.tsv", "predictions.jsonl")
        >>> accuracy = found.values["accuracy"]

    Args:
        task: "classification", "multi_label", "regression", "entities" or "qa"; or a benchmark, such as "sst2".
        gold: the file with the right labels, tags or answers.
        predictions: what `unmask predict` wrote, or a file in the benchmark's form.
        label: column of the labels or tags of a gold file of one's own, by name or number. None: "label", or the last
            column of tags.
        id: column of the examples' own names in a gold file of one's own. None: their numbers from 0.
        separator: between the columns of a gold file.
        rules: how answers are compared. None: those of the benchmark; for "qa" those of SQuAD, v2 if the gold file has
            questions without an answer.
        null_odds: file with the null odds of each question, for the best threshold of v2. None: those in `predictions`.
        encoding: of the gold file.
        resamples: of the bootstrap; 0 gives no intervals.
    Raises:
        ConfigError: `task` is unknown.
        CorpusError: a file cannot be read, or does not fit the other one.
    """
    check_argument("score", "resamples", int, resamples, ge=0)
    benchmark = benchmark_of(task)
    kind = task if benchmark is None else benchmark.task
    if kind == "entities":
        words = WordsLayout(tag=label, separator=separator)
        sentences = read_sentences(gold, words, scheme=None, encoding=encoding)
        return _score_entities(sentences, predicted_tags(predictions, sentences), resamples)
    if kind == "qa":
        if rules is None and benchmark is not None:
            rules = benchmark.rules
        return _score_qa(gold, predictions, rules, null_odds, encoding, resamples)
    layout = benchmark.texts if benchmark is not None else None
    if layout is None:
        layout = _own_layout(kind, label or "label", id)
    labels = None if layout.kind == "number" else _labels(gold, predictions, layout, encoding, separator)
    examples = read_texts(gold, layout, labels, encoding=encoding, delimiter=separator)
    return score_texts(examples, predicted_labels(predictions, examples, layout, labels), labels, resamples=resamples)


def _own_layout(kind: str, label: str, id: str | None) -> TextLayout:
    # a score reads no text, so the column of labels stands for it too
    return layout_of_columns(
        label,
        label=label,
        id=id,
        kind="number" if kind == "regression" else "several" if kind == "multi_label" else "classes",
    )


def _labels(
    gold: str | Path, predictions: str | Path, layout: TextLayout, encoding: str, separator: str | None
) -> Labels:
    if layout.labels is not None:
        return layout.labels
    found = find_labels(gold, layout, encoding=encoding, delimiter=separator)
    return Labels.found_in({*found.names, *predicted_names(predictions, layout)})


def _score_entities(sentences: Sequence[WordsExample], predictions: Sequence[Sequence[str]], resamples: int) -> Scores:
    own = scheme_of(one.tags or () for one in sentences)
    if own not in ("BIO", scheme_of(predictions)):
        # tags are compared too, so they need one scheme
        sentences = [replace(one, tags=tags_of(entities_of(one.tags or ()), len(one.words))) for one in sentences]
    return score_words(sentences, predictions, resamples=resamples)


def _score_qa(
    gold: str | Path,
    predictions: str | Path,
    rules: AnswerRules | None,
    null_odds: str | Path | None,
    encoding: str,
    resamples: int,
) -> Scores:
    examples = read_questions(gold, encoding=encoding)
    answers, odds = predicted_answers(predictions, examples)
    if null_odds is not None:
        odds = _read_odds(null_odds)
    rules = rules or ("squad2" if any(one.impossible for one in examples) else "squad")
    known = odds if all(one.id in odds for one in examples if one.id in answers) else None
    return score_questions(examples, answers, rules=rules, null_odds=known, resamples=resamples)


def _read_odds(location: str | Path) -> dict[str, float]:
    path = task_file(location)
    with decoding.errors_named(path):
        value = json_value(path)
    if not isinstance(value, dict) or not all(isinstance(one, int | float) for one in value.values()):
        raise CorpusError(
            f"score: {path} must map the id of each question to a number; give the null_odds.json of unmask predict, "
            "or the na_prob.json of another program"
        )
    return {name: float(number) for name, number in value.items()}
