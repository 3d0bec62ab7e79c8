"""Files of predictions, read for scoring: those of `unmask predict`, and those that benchmarks take.

    texts       JSON lines with "id" and "label" (or "prediction", "value"); TSV with a header of index and prediction;
                or a label a line, in the order of the examples
    words       JSON lines with "id" and "tags"; or CoNLL columns with the predicted tag last
    questions   {"id": "answer", ...}; JSON lines with "id", "answer" and "null_odds"; or a list of such objects

Predictions are found by the ids of the examples; without ids they are in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

from unmask.config.settings import counted
from unmask.data.text import decoding
from unmask.data.text.json_text import json_value
from unmask.errors import CorpusError
from unmask.tasks.data.layouts import TextLayout
from unmask.tasks.data.rows import read_rows, suffix_of_location, task_file
from unmask.tasks.data.words import read_sentences
from unmask.tasks.examples import Labels, QuestionExample, TextExample, WordsExample, listed

__all__ = ["predicted_answers", "predicted_labels", "predicted_names", "predicted_tags"]

T = TypeVar("T")

_IDS = ("id", "index", "qid", "idx")
_VALUES = ("label", "prediction", "value", "labels", "label_desc")
_TABLES = (".json", ".jsonl", ".ndjson", ".jsonlines")


class _Prediction(NamedTuple):
    """A prediction for a text; `id` is None in a file without ids."""

    id: str | None
    value: Any
    where: str


def predicted_names(location: str | PurePath, layout: TextLayout) -> set[str]:
    """Return the names of the classes that a file predicts.

    Args:
        location: the file.
        layout: of the gold file, which knows other spellings.
    Raises:
        CorpusError: the file cannot be read, or has no predictions.
    """
    return {name for one in _text_predictions(location) for name in _names(one.value, layout)}


def predicted_labels(
    location: str | PurePath, examples: Sequence[TextExample], layout: TextLayout, labels: Labels | None
) -> list[int | float | tuple[int, ...]]:
    """Return the predictions for texts in their order, in the form of their labels.

    Args:
        location: the file of predictions.
        examples: the gold examples.
        layout: of the gold file.
        labels: names of the classes; None for a regression.
    Raises:
        CorpusError: the file cannot be read; an example has no prediction; or a prediction is no label.
    """
    found = _text_predictions(location)
    ordered = _aligned(location, found, [one.id for one in found], [one.id for one in examples])
    return [_label(one, layout, labels) for one in ordered]


def predicted_tags(location: str | PurePath, examples: Sequence[WordsExample]) -> list[tuple[str, ...]]:
    """Return the predicted tags of sentences, in their order.

    Raises:
        CorpusError: the file cannot be read; a sentence has no prediction, or another number of tags than words.
    """
    if suffix_of_location(location) in _TABLES:
        rows = list(read_rows(location, lambda cells: True))
        found = [(values.get("tags"), place) for values, place in rows]
        ids = [_id(values) for values, _ in rows]
    else:
        sentences = read_sentences(location, scheme=None, warns=False)
        found, ids = [(one.tags, one.where) for one in sentences], [None] * len(sentences)
    ordered = _aligned(location, found, ids, [one.id for one in examples])
    tags = []
    for (given, place), one in zip(ordered, examples, strict=True):
        if not isinstance(given, list | tuple) or len(given) != len(one.words):
            count = len(given) if isinstance(given, list | tuple) else 0
            raise CorpusError(
                f"score: {place} must have {counted(len(one.words), 'tag')}, one for each word of {one.where}, got "
                f"{count}; predict that file again"
            )
        tags.append(tuple(map(str, given)))
    return tags


def predicted_answers(
    location: str | PurePath, examples: Sequence[QuestionExample]
) -> tuple[dict[str, str], dict[str, float]]:
    """Return the answers by the ids of the questions, and the null odds of those that have them.

    Raises:
        CorpusError: the file cannot be read, or has no answer to any of the questions.
    """
    answers: dict[str, str] = {}
    odds: dict[str, float] = {}
    if suffix_of_location(location) == ".json":
        path = task_file(location)
        with decoding.errors_named(path):
            value = json_value(path)
        rows = [(one, f"{path}") for one in value] if isinstance(value, list) else None
        if rows is None:
            if not isinstance(value, dict):
                raise _no_answers(location)
            rows = [({"id": key, "answer": text}, f"{path}") for key, text in value.items()]
    else:
        rows = [(dict(values), place) for values, place in read_rows(location, lambda cells: True)]
    for one, _ in rows:
        text = one.get("answer") if isinstance(one, dict) else None
        if not isinstance(text, str) or "id" not in one:
            raise _no_answers(location)
        answers[str(one["id"])] = text
        if isinstance(one.get("null_odds"), int | float):
            odds[str(one["id"])] = float(one["null_odds"])
    if not any(one.id in answers for one in examples):
        raise CorpusError(
            f"score: {location} answers none of {counted(len(examples), 'question')}, the first is "
            f"{examples[0].where if examples else 'missing'}; give the predictions for this gold file"
        )
    return answers, odds


def _no_answers(location: object) -> CorpusError:
    return CorpusError(
        f"score: {location} must map the id of each question to its answer, or hold objects with 'id' and 'answer'; "
        "write it so, as unmask predict does"
    )


def _text_predictions(location: str | PurePath) -> list[_Prediction]:
    found = []
    for values, place in read_rows(location, lambda cells: any(cell in (*_IDS, *_VALUES) for cell in cells)):
        names = [name for name in _VALUES if name in values]
        # without a header: a label, or an id and a label
        last = str(len(values))
        value = values[names[0]] if names else values.get(last)
        if value is None:
            raise CorpusError(
                f"score: {place} must have a prediction in one of the fields {', '.join(_VALUES)}, its fields are "
                f"{', '.join(map(str, values))}; name it prediction"
            )
        found.append(_Prediction(_id(values) if names else values.get("1") if last == "2" else None, value, place))
    return found


def _id(values: Any) -> str | None:
    return next((str(values[name]) for name in _IDS if name in values), None)


def _aligned(location: object, found: list[T], ids: list[str | None], wanted: list[str]) -> list[T]:
    """Return what was found in the order of the ids that are wanted; without ids as it is."""
    if all(one is not None for one in ids) and len(set(ids)) == len(ids):
        by_id = dict(zip(ids, found, strict=True))
        missing = [one for one in wanted if one not in by_id]
        if not missing:
            return [by_id[one] for one in wanted]
        raise CorpusError(
            f"score: {location} has no prediction for {counted(len(missing), 'example')} of {len(wanted):,}, the first "
            f"is {missing[0]!r}; give predictions for the whole gold file, or name its column of ids with --data.id"
        )
    if len(found) != len(wanted):
        raise CorpusError(
            f"score: {location} must have a prediction for each of {counted(len(wanted), 'example')}, got "
            f"{len(found):,}; give predictions for the whole gold file"
        )
    return found


def _names(value: Any, layout: TextLayout) -> list[str]:
    parts = value if isinstance(value, list) else [value]
    if layout.kind == "several" and not isinstance(value, list):
        parts = [part.strip() for part in str(value).split(layout.separator) if part.strip()]
    return [layout.spellings.get(str(part), str(part)) for part in parts]


def _label(one: _Prediction, layout: TextLayout, labels: Labels | None) -> int | float | tuple[int, ...]:
    place = one.where
    if labels is None:
        try:
            return float(one.value)
        except (TypeError, ValueError):
            raise CorpusError(
                f"score: {place} must predict a number, got {one.value!r}; predict that file again"
            ) from None
    names = _names(one.value, layout)
    for name in names:
        if name not in labels.names:
            raise CorpusError(
                f"score: {place} predicts {name!r}, which is no label of the task; write one of {listed(labels.names)}"
            )
    indices = [labels.names.index(name) for name in names]
    if layout.kind == "several":
        return tuple(sorted(set(indices)))
    return indices[0]
