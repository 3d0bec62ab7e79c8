"""Classification and regression of texts and pairs: examples, inputs, predictions, scores.

The probability of a class is the softmax of the outputs, or the sigmoid where a text may have several classes. Where a
text is read in windows, the mean over its windows counts; in training each window has the label of its text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unmask.config.head import HeadTask
from unmask.data.tokenizer import Tokenizer
from unmask.tasks.benchmarks import BENCHMARKS, texts_of_benchmark
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.data.layouts import TextLayout, layout_of_columns
from unmask.tasks.data.texts import find_labels, read_texts
from unmask.tasks.examples import Labels, TextExample
from unmask.tasks.inputs import ModelInputs
from unmask.tasks.outputs import Outputs
from unmask.tasks.scores.scoring import Scores, score_texts
from unmask.tasks.task import Task
from unmask.tasks.text_encoding import encode_texts

__all__ = ["TextTask"]

_LIKELY = 0.5
_SCORES: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "macro_f1", "micro_f1", "matthews"),
    "multi_label": ("accuracy", "macro_f1", "micro_f1"),
    "regression": ("pearson", "spearman", "correlation", "mse"),
}
_KINDS: dict[str, Literal["classes", "number", "several"]] = {
    "classification": "classes",
    "multi_label": "several",
    "regression": "number",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTask:
    """Classes of texts, several classes of a text, or a number for it.

    Attributes:
        config: settings of the run.
        labels: names of the classes; empty for a regression.
    """

    config: FinetuneConfig
    labels: tuple[str, ...]
    best_is_low: bool = False

    @property
    def kind(self) -> HeadTask:
        """What is predicted."""
        return self.config.task

    @property
    def metric(self) -> str:
        """The score of the benchmark; else accuracy, F1 over all classes of all texts, or Spearman's correlation."""
        if self.config.data.layout is not None:
            return BENCHMARKS[self.config.data.layout].metric
        return {"classification": "accuracy", "multi_label": "micro_f1"}.get(self.kind, "spearman")

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores of the task; only two classes have an F1 of the second one."""
        names = _SCORES[self.kind]
        return tuple(name for name in names if name != "f1" or len(self.labels) == 2)

    def inputs(self, examples: Sequence[TextExample], tokenizer: Tokenizer) -> ModelInputs:
        """Return what the model reads of examples; with targets if all examples have labels."""
        settings = self.config.input
        found = encode_texts(examples, tokenizer, max_length=settings.max_length, long_texts=settings.long_texts)
        owners = [one.example for one in found]
        targets = self._targets(examples)
        return ModelInputs.of(
            [one.ids for one in found],
            [one.segments for one in found],
            owners,
            targets=None if targets is None else targets[owners],
        )

    def has_labels(self, examples: Sequence[TextExample]) -> bool:
        """Return whether examples have labels; those without one, as annotators leave some, are not scored."""
        return any(one.label is not None for one in examples)

    def predictions(
        self, outputs: Outputs, inputs: ModelInputs, examples: Sequence[TextExample]
    ) -> list[dict[str, Any]]:
        """Return the prediction for each example."""
        values = np.stack([self._activated(logits.astype(np.float64)) for logits in outputs.logits])
        sums = np.zeros((len(examples), values.shape[1]))
        np.add.at(sums, inputs.examples, values)
        means = sums / np.bincount(inputs.examples, minlength=len(examples))[:, None]
        return [self._prediction(one, mean) for one, mean in zip(examples, means, strict=True)]

    def _targets(self, examples: Sequence[TextExample]) -> NDArray[np.generic] | None:
        if any(one.label is None for one in examples):
            return None
        given = [one.label for one in examples]
        if self.kind == "classification":
            return np.array(given, np.int64)
        if self.kind == "regression":
            return np.array(given, np.float32)
        targets = np.zeros((len(given), len(self.labels)), np.float32)
        for row, label in enumerate(given):
            targets[row, list(label if isinstance(label, tuple) else ())] = 1.0
        return targets

    def _activated(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.kind == "regression":
            return logits
        if self.kind == "multi_label":
            return 1.0 / (1.0 + np.exp(-logits))
        shifted = np.exp(logits - logits.max())
        return shifted / shifted.sum()

    def _prediction(self, example: TextExample, values: NDArray[np.float64]) -> dict[str, Any]:
        if self.kind == "regression":
            return {"id": example.id, "value": float(values[0])}
        probabilities = dict(zip(self.labels, map(float, values), strict=True))
        if self.kind == "multi_label":
            likely = [name for name, value in probabilities.items() if value > _LIKELY]
            return {"id": example.id, "labels": likely, "probabilities": probabilities}
        return {"id": example.id, "label": self.labels[int(values.argmax())], "probabilities": probabilities}

    def scores(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[TextExample], *, resamples: int = 0
    ) -> Scores:
        """Return the scores of predictions for examples with labels."""
        given: list[int | float | tuple[int, ...]]
        labelled = [place for place, one in enumerate(examples) if one.label is not None]
        examples = [examples[place] for place in labelled]
        predictions = [predictions[place] for place in labelled]
        if self.kind == "regression":
            given = [one["value"] for one in predictions]
        elif self.kind == "multi_label":
            given = [tuple(map(self.labels.index, one["labels"])) for one in predictions]
        else:
            given = [self.labels.index(one["label"]) for one in predictions]
        return score_texts(examples, given, Labels(self.labels) if self.labels else None, resamples=resamples)

    @classmethod
    def from_training_file(cls, config: FinetuneConfig, known: Sequence[str] | None) -> tuple[Task, list[Any]]:
        """Return the task and the examples of its training file; see `Task`."""
        data = config.data
        assert data.train is not None
        names: tuple[str, ...] = ()
        if config.task != "regression":
            layout = _layout(config)
            found = find_labels(data.train, layout, encoding=data.encoding, delimiter=data.delimiter)
            names = tuple(data.labels) or found.names
            if not data.labels and known is not None and set(names) <= set(known):
                names = tuple(known)
        task = cls(config=config, labels=names)
        return task, task._read(data.train, labelled=True)[: data.train_examples]

    def read(self, path: Path) -> list[TextExample]:
        """Return the examples of a file, whose labels may be missing."""
        return self._read(str(path), labelled=False)

    def _read(self, location: str, *, labelled: bool) -> list[TextExample]:
        data = self.config.data
        return read_texts(
            location,
            _layout(self.config),
            Labels(self.labels) if self.labels else None,
            labelled=labelled,
            encoding=data.encoding,
            delimiter=data.delimiter,
        )


def _layout(config: FinetuneConfig) -> TextLayout:
    """Return the layout of the files, by the name of a benchmark or by the columns.

    Raises:
        ConfigError: there is no such benchmark.
    """
    data = config.data
    if data.layout is None:
        kind = _KINDS[config.task]
        return layout_of_columns(
            data.text or "text", pair=data.pair, label=data.label or "label", id=data.id, kind=kind
        )
    return texts_of_benchmark(data.layout)
