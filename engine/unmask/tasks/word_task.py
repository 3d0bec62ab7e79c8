"""Entities: a tag for each word, predicted at its first token, and the entities that the tags mark.

A sentence that does not fit is read in windows; each word is predicted once, where it has most context. Training reads
the words that a window decides about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.tokenizer import Tokenizer
from unmask.errors import ConfigError
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.data.words import WordsLayout, find_tags, read_sentences, tag_indices
from unmask.tasks.examples import Labels, WordsExample
from unmask.tasks.inputs import ModelInputs
from unmask.tasks.outputs import Outputs
from unmask.tasks.scores.scoring import Scores, score_words
from unmask.tasks.tags import entities_of
from unmask.tasks.task import Task
from unmask.tasks.word_encoding import encode_words

__all__ = ["WordTask"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WordTask:
    """Tags of words.

    Attributes:
        config: settings of the run.
        labels: the tags.
    """

    config: FinetuneConfig
    labels: tuple[str, ...]
    best_is_low: bool = False
    metric: str = "f1"
    score_names: tuple[str, ...] = ("f1", "precision", "recall", "accuracy")

    @classmethod
    def from_training_file(cls, config: FinetuneConfig, known: Sequence[str] | None) -> tuple[Task, list[Any]]:
        """Return the task and the examples of its training file; see `Task`."""
        assert config.data.train is not None
        examples = _read(config, config.data.train, tagged=True)[: config.data.train_examples]
        names = tuple(config.data.labels) or find_tags(examples).names
        if not config.data.labels and known is not None and set(names) <= set(known):
            names = tuple(known)
        return cls(config=config, labels=names), examples

    def read(self, path: Path) -> list[WordsExample]:
        """Return the sentences of a file, whose tags may be missing."""
        return _read(self.config, str(path), tagged=False)

    def has_labels(self, examples: Sequence[WordsExample]) -> bool:
        """Return whether all sentences have tags."""
        return all(one.tags is not None for one in examples)

    def inputs(self, examples: Sequence[WordsExample], tokenizer: Tokenizer) -> ModelInputs:
        """Return what the model reads of sentences; with tags if all have them."""
        found = encode_words(examples, tokenizer, max_length=self.config.input.max_length)
        tags = None
        if self.has_labels(examples):
            labels = Labels(self.labels)
            numbers = [np.array(tag_indices(one, labels), np.int64) for one in examples]
            tags = [numbers[one.example][one.words] for one in found]
        return ModelInputs.of(
            [one.ids for one in found],
            None,
            [one.example for one in found],
            words=[np.array(one.rows, np.int64) for one in found],
            tags=tags,
            numbers=[np.array(one.words, np.int64) for one in found],
        )

    def predictions(
        self, outputs: Outputs, inputs: ModelInputs, examples: Sequence[WordsExample]
    ) -> list[dict[str, Any]]:
        """Return the tags and the entities of each sentence, with the probability of each tag."""
        assert inputs.numbers is not None
        tags = [[""] * len(one.words) for one in examples]
        shares = [[0.0] * len(one.words) for one in examples]
        for example, words, logits in zip(inputs.examples.tolist(), inputs.numbers, outputs.logits, strict=True):
            wide = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True, initial=-np.inf))
            for word, row in zip(words.tolist(), wide, strict=True):
                tags[example][word] = self.labels[int(row.argmax())]
                shares[example][word] = float(row.max() / row.sum())
        return [
            {
                "id": one.id,
                "words": list(one.words),
                "tags": found,
                "probabilities": share,
                "entities": [
                    {"type": entity.type, "words": list(one.words[entity.start : entity.end]), "start": entity.start}
                    for entity in entities_of(found)
                ],
            }
            for one, found, share in zip(examples, tags, shares, strict=True)
        ]

    def scores(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[WordsExample], *, resamples: int = 0
    ) -> Scores:
        """Return precision, recall and F1 of entities, as `conlleval` counts them, and the accuracy of tags."""
        return score_words(examples, [one["tags"] for one in predictions], resamples=resamples)


def _read(config: FinetuneConfig, location: str, *, tagged: bool) -> list[WordsExample]:
    data = config.data
    if data.layout is not None:
        raise ConfigError(
            f"config: data.layout is {data.layout!r}, and files of words have no layouts; leave it out, or give "
            "data.text and data.label as the columns of words and tags"
        )
    layout = WordsLayout(word=data.text, tag=data.label, separator=data.delimiter)
    return read_sentences(location, layout, tagged=tagged, encoding=data.encoding)
