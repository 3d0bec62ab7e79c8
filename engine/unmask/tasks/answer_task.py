"""Question answering: the part of a context that answers a question, from the scores of its tokens as start and end.

A long context is read in windows. In training, a window without the whole answer has the target (0, 0), which is [CLS];
a question whose answers are not in its context trains nothing (Devlin et al. 2019, in their code).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmask.config.settings import counted
from unmask.data.tokenizer import Tokenizer
from unmask.errors import ConfigError
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.data.questions import read_questions
from unmask.tasks.examples import QuestionExample
from unmask.tasks.inputs import ModelInputs
from unmask.tasks.outputs import Outputs
from unmask.tasks.qa.answers import find_answers
from unmask.tasks.qa.windows import make_windows
from unmask.tasks.scores.scoring import Scores, score_questions
from unmask.tasks.task import Task

__all__ = ["AnswerTask"]

_log = logging.getLogger(__name__)

# candidates that a prediction lists
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerTask:
    """Answers to questions.

    Attributes:
        config: settings of the run.
        labels: empty.
    """

    config: FinetuneConfig
    labels: tuple[str, ...] = ()
    best_is_low: bool = False
    metric: str = "f1"

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores of the task."""
        return {
            "squad": ("exact", "f1"),
            "squad2": ("exact", "f1", "has_answer_exact", "has_answer_f1", "no_answer_exact", "no_answer_f1"),
            "cmrc": ("exact", "f1", "average"),
            "cjrc": ("exact", "f1"),
        }[self.config.answers.rules]

    @classmethod
    def from_training_file(cls, config: FinetuneConfig, known: Sequence[str] | None) -> tuple[Task, list[Any]]:
        """Return the task and the examples of its training file; see `Task`."""
        assert config.data.train is not None
        found = _read(config, config.data.train, answered=True)
        examples = [one for one in found if one.impossible or any(answer.start >= 0 for answer in one.answers)]
        if len(examples) < len(found):
            _log.info(
                f"data: {counted(len(found) - len(examples), 'question')} of {config.data.train} have no answer in "
                "their context and are left out of training"
            )
        return cls(config=config), examples[: config.data.train_examples]

    def read(self, path: Path) -> list[QuestionExample]:
        """Return the questions of a file, whose answers may be missing."""
        found = _read(self.config, str(path), answered=False)
        # in a file with answers, a question without one has none
        return _read(self.config, str(path), answered=True) if self.has_labels(found) else found

    def has_labels(self, examples: Sequence[QuestionExample]) -> bool:
        """Return whether the file has answers: a test file has none at all."""
        return any(one.answers for one in examples)

    def inputs(self, examples: Sequence[QuestionExample], tokenizer: Tokenizer) -> ModelInputs:
        """Return the windows of questions; with the span of the answer if the file has answers."""
        settings = self.config.input
        windows = make_windows(
            examples,
            tokenizer,
            max_length=settings.max_length,
            stride=settings.stride,
            max_question=settings.max_question,
        )
        spans = np.array([one.span for one in windows], np.int64) if self.has_labels(examples) else None
        return ModelInputs.of(
            [one.ids for one in windows],
            [one.segments for one in windows],
            [one.example for one in windows],
            targets=spans,
            windows=windows,
        )

    def predictions(
        self, outputs: Outputs, inputs: ModelInputs, examples: Sequence[QuestionExample]
    ) -> list[dict[str, Any]]:
        """Return the answer to each question, with the best candidates."""
        assert inputs.windows is not None
        settings = self.config.answers
        impossible = settings.rules in ("squad2", "cjrc")
        found = find_answers(
            examples,
            inputs.windows,
            [logits[:, 0] for logits in outputs.logits],
            [logits[:, 1] for logits in outputs.logits],
            best=settings.best,
            max_answer=settings.max_tokens,
            may_be_impossible=impossible,
            threshold=settings.threshold,
        )
        return [
            {
                "id": one.id,
                "answer": one.text,
                "candidates": [asdict(candidate) for candidate in one.candidates[:_SHOWN]],
                **({"null_odds": one.null_odds} if impossible else {}),
            }
            for one in found
        ]

    def scores(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[QuestionExample], *, resamples: int = 0
    ) -> Scores:
        """Return the exact matches and F1 of the official scorer, in percent."""
        given = {one["id"]: one["answer"] for one in predictions}
        return score_questions(examples, given, rules=self.config.answers.rules, resamples=resamples)


def _read(config: FinetuneConfig, location: str, *, answered: bool) -> list[QuestionExample]:
    data = config.data
    for name in ("layout", "text", "pair", "label"):
        if getattr(data, name) is not None:
            raise ConfigError(
                f"config: data.{name} is {getattr(data, name)!r}, and a file of questions is JSON as SQuAD has it; "
                "leave it out"
            )
    return read_questions(location, answered=answered, encoding=data.encoding)
