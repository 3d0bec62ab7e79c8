"""The benchmarks that the engine knows by name: the layout of their files, their main score, and their submissions."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from unmask.errors import ConfigError
from unmask.tasks.data.clue import CLUE
from unmask.tasks.data.glue import GLUE
from unmask.tasks.data.layouts import TextLayout
from unmask.tasks.data.words import WordsLayout
from unmask.tasks.scores.scoring import AnswerRules

__all__ = ["BENCHMARKS", "TASKS", "Benchmark", "TaskName", "benchmark_of", "texts_of_benchmark"]

TaskName = Literal["classification", "multi_label", "regression", "entities", "qa"]
TASKS: tuple[TaskName, ...] = ("classification", "multi_label", "regression", "entities", "qa")


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: as it is typed.
        task: what it is.
        texts: the layout of its files, for classification and regression.
        words: likewise, for entities.
        rules: how answers are compared, for question answering.
        metric: the score that its table shows, and that chooses the best checkpoint.
        submission: name of the file with predictions that its server takes.
    """

    name: str
    task: TaskName
    texts: TextLayout | None = None
    words: WordsLayout | None = None
    rules: AnswerRules | None = None
    metric: str
    submission: str


_GLUE_FILES = {
    "cola": ("CoLA.tsv", "matthews"),
    "sst2": ("SST-2.tsv", "accuracy"),
    "mrpc": ("MRPC.tsv", "f1"),
    "stsb": ("STS-B.tsv", "spearman"),
    "qqp": ("QQP.tsv", "f1"),
    "mnli": ("MNLI-m.tsv", "accuracy"),
    "ax": ("AX.tsv", "matthews"),
    "qnli": ("QNLI.tsv", "accuracy"),
    "rte": ("RTE.tsv", "accuracy"),
    "wnli": ("WNLI.tsv", "accuracy"),
}
_CLUE_FILES = {"tnews": "tnews_predict.json", "ocnli": "ocnli_50k_predict.json"}
_QUESTIONS: dict[str, AnswerRules] = {
    "squad": "squad",
    "squad2": "squad2",
    "xquad": "squad",
    "cmrc2018": "cmrc",
    "drcd": "cmrc",
    "cjrc": "cjrc",
}

BENCHMARKS = {
    one.name: one
    for one in (
        *(
            Benchmark(
                name=name,
                task="regression" if GLUE[name].kind == "number" else "classification",
                texts=GLUE[name],
                metric=metric,
                submission=file,
            )
            for name, (file, metric) in _GLUE_FILES.items()
        ),
        *(
            Benchmark(
                name=name,
                task="classification",
                texts=layout,
                metric="accuracy",
                submission=_CLUE_FILES.get(name, f"{name}_predict.json"),
            )
            for name, layout in CLUE.items()
        ),
        *(
            Benchmark(name=name, task="entities", words=WordsLayout(name=name), metric="f1", submission=f"{name}.txt")
            for name in ("conll2003", "msra", "weibo")
        ),
        *(
            Benchmark(name=name, task="qa", rules=rules, metric="f1", submission="predictions.json")
            for name, rules in _QUESTIONS.items()
        ),
    )
}
"""The benchmarks by their names."""


def benchmark_of(name: str) -> Benchmark | None:
    """Return the benchmark of a name; None for a task, such as "classification".

    Raises:
        ConfigError: the name is neither a benchmark nor a task.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if name in TASKS:
        return None
    close = difflib.get_close_matches(name.lower().replace("-", ""), [*BENCHMARKS, *TASKS], n=1)
    way = f"write {close[0]}" if close else f"write one of {', '.join([*TASKS, *BENCHMARKS])}"
    raise ConfigError(f"task: {name!r} is neither a task nor a benchmark; {way}")


def texts_of_benchmark(name: str) -> TextLayout:
    """Return the layout of a benchmark's files of texts.

    Raises:
        ConfigError: there is no such benchmark of texts.
    """
    known = {one.name: one.texts for one in BENCHMARKS.values() if one.texts is not None}
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=1)
        way = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise ConfigError(f"config: data.layout is {name!r}, which is no benchmark of texts; {way}")
    return known[name]
