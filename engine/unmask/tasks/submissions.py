"""Files of predictions in the forms that benchmarks take.

    GLUE                      index<TAB>prediction with a header
    TNEWS                     {"id": 0, "label": "108", "label_desc": "news_edu"} a line
    OCNLI and other texts     {"id": 0, "label": "neutral"} a line
    entities                  word, gold tag if there is one, predicted tag: what `conlleval` reads
    SQuAD, CMRC and others    {"id": "answer", ...}; of v2 also the null odds, in null_odds.json
    CJRC                      [{"id": ..., "answer": ...}, ...]

A file is written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.paths import replace_text
from unmask.tasks.benchmarks import Benchmark
from unmask.tasks.data.clue import TNEWS_CODES
from unmask.tasks.data.glue import GLUE
from unmask.tasks.examples import TextExample, WordsExample
from unmask.tasks.qa.answers import PredictedAnswer

__all__ = ["write_answers", "write_entities", "write_texts"]

_CODES = {name: code for code, name in TNEWS_CODES.items()}


def write_texts(
    path: Path, benchmark: Benchmark, examples: Sequence[TextExample], predictions: Sequence[str | float]
) -> None:
    """Write the submission of a benchmark of texts.

    Args:
        path: the file; `benchmark.submission` is its usual name.
        benchmark: whose form it has.
        examples: the texts.
        predictions: the name of a class, or a number, for each text.
    """
    if benchmark.name in GLUE:
        rows = [
            f"{one.id}\t{f'{given:.3f}' if isinstance(given, float) else given}"
            for one, given in zip(examples, predictions, strict=True)
        ]
        replace_text(path, "".join(row + "\n" for row in ["index\tprediction", *rows]))
        return
    records: list[dict[str, Any]] = []
    for one, given in zip(examples, predictions, strict=True):
        number = int(one.id) if one.id.isdecimal() else one.id
        if benchmark.name == "tnews":
            records.append({"id": number, "label": _CODES[str(given)], "label_desc": given})
        else:
            records.append({"id": number, "label": given})
    replace_text(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))


def write_entities(path: Path, examples: Sequence[WordsExample], tags: Sequence[Sequence[str]]) -> None:
    """Write the columns that `conlleval` reads: word, gold tag where the file has one, predicted tag."""
    sentences = []
    for one, given in zip(examples, tags, strict=True):
        columns = [one.words, given] if one.tags is None else [one.words, one.tags, given]
        sentences.append("".join(" ".join(cells) + "\n" for cells in zip(*columns, strict=True)))
    replace_text(path, "\n".join(sentences))


def write_answers(
    path: Path, answers: Sequence[PredictedAnswer], *, null_odds: bool = False, as_list: bool = False
) -> None:
    """Write the answers by the ids of the questions.

    Args:
        path: the file.
        answers: of all questions.
        null_odds: whether to write the null odds too, as null_odds.json beside it.
        as_list: whether each answer is an object with `id` and `answer`, as CJRC takes them.
    """
    named = {one.id: one.text for one in answers}
    rows = [{"id": name, "answer": text} for name, text in named.items()]
    replace_text(path, json.dumps(rows if as_list else named, ensure_ascii=False, indent=1) + "\n")
    if null_odds:
        odds = {one.id: one.null_odds for one in answers}
        replace_text(path.with_name("null_odds.json"), json.dumps(odds, indent=1) + "\n")
