"""`predict`: what a fine-tuned model predicts for the examples of a file.

The model knows how it reads a text: the maximum length, what happens to longer texts, and the columns of its training
file. A file with labels is scored too.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from unmask.config.settings import counted
from unmask.data.tokenizer import Tokenizer
from unmask.errors import RunError, SettingError, UnmaskError
from unmask.interop.find_model import find_model
from unmask.interop.task_folder import read_task_model
from unmask.model.task_model import TaskModel
from unmask.paths import replace_text
from unmask.tasks.benchmarks import BENCHMARKS
from unmask.tasks.config import AnswersConfig, ExamplesConfig, FinetuneConfig, InputConfig
from unmask.tasks.data.texts import require_pairs
from unmask.tasks.outputs import outputs_of
from unmask.tasks.qa.answers import PredictedAnswer
from unmask.tasks.submissions import write_answers, write_entities, write_texts
from unmask.tasks.task import Task
from unmask.tasks.tasks import task_of
from unmask.train.checkpoint.tokenizer_hash import require_bound
from unmask.train.precision import choose_precision

__all__ = ["Predicted", "TaskPredictor", "predict"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """What a model predicts for a file.

    Attributes:
        examples: of the file.
        predictions: one for each example, in their order.
        scores: by their names; None for a file without labels.
    """

    examples: list[Any]
    predictions: list[dict[str, Any]]
    scores: dict[str, float] | None


def predict(
    model: str | Path,
    file: str | Path,
    out: str | Path | None = None,
    *,
    layout: str | None = None,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    submission: bool = False,
) -> Predicted:
    """Return what a fine-tuned model predicts for the examples of a file.

    Args:
        model: a run of `unmask finetune`, whose best checkpoint is read; a folder with an output layer; or such a
            model of the Hub.
        file: examples, with or without labels.
        out: file for the predictions, a JSON object a line. It must not exist.
        layout: benchmark whose file this is. Default: as in training.
        text, pair, label: columns. Default: as in training.
        submission: whether `out` has the form that the benchmark's server takes, and not JSON lines.
    Raises:
        RunError: `out` exists, or the run has no model yet.
        CheckpointError: `model` has no output layer, or is damaged.
        CorpusError: the file cannot be read.
        ConfigError: there is no such layout.
    """
    target = None if out is None else Path(out)
    if target is not None and target.exists():
        raise RunError(f"{target} exists already; choose another name with --out")
    if submission and target is None:
        raise UnmaskError("predict: --submission needs the file to write; give it as --out FILE")
    predictor = TaskPredictor(model, layout=layout, text=text, pair=pair, label=label)
    if submission:
        predictor.require_submission()
    found = predictor.predict(file)
    if target is not None and submission:
        predictor.write_submission(target, found)
    elif target is not None:
        replace_text(target, "".join(json_lines(found.predictions)))
    return found


def json_lines(predictions: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield predictions as JSON, one a line."""
    for one in predictions:
        yield json.dumps(one, ensure_ascii=False) + "\n"


class TaskPredictor:
    """A fine-tuned model, read from the disk once for any number of files.

    Args:
        model, layout, text, pair, label: as for `predict`.
    Attributes:
        name: of the model: its folder, or its name at the Hugging Face Hub.
        model, tokenizer: what was read.
        config: how the model reads a file.
        task: what the outputs mean.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        layout: str | None = None,
        text: str | None = None,
        pair: str | None = None,
        label: str | None = None,
    ) -> None:
        found = find_model(model)
        self.name = found.name
        folder = read_task_model(found.path)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision = choose_precision("auto", device)
        self.model = TaskModel.from_pretrained(found, compute_dtype=precision.dtype).to(device)
        self.tokenizer = Tokenizer.load(found.path)
        require_bound(found.path, self.tokenizer, self.model.config.token_rows)
        self._pairs = _trained_on_pairs(folder.settings)
        columns = {"text": text, "pair": pair, "label": label}
        given = {name: value for name, value in columns.items() if value is not None}
        if given and layout is not None:
            raise UnmaskError(
                f"predict: --layout and --{next(iter(given))} are given together, and a layout names its columns; "
                "leave one out"
            )
        settings = {**folder.settings, **given}
        if given or layout is not None:
            settings["layout"] = layout
        self.config = _config(self.model, settings, self.name)
        self.task: Task = task_of(self.config, folder.head.labels)

    def predict(self, file: str | Path) -> Predicted:
        """Return the predictions for a file, and their scores if it has labels.

        Raises:
            CorpusError: the file cannot be read, or it has pairs where the model was trained on single texts, or the
                other way round.
        """
        examples = self.task.read(Path(file))
        if self._pairs is not None and self.model.head.pools:
            require_pairs(examples, pairs=self._pairs)
        inputs = self.task.inputs(examples, self.tokenizer)
        predictions = self.task.predictions(outputs_of(self.model, inputs), inputs, examples)
        if not self.task.has_labels(examples):
            _log.info(f"{file} has no labels, so nothing is scored")
            return Predicted(examples=examples, predictions=predictions, scores=None)
        scores = self.task.scores(predictions, examples).values
        shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        _log.info(f"{file}: {counted(len(examples), 'example')}, {shown}")
        return Predicted(examples=examples, predictions=predictions, scores=scores)

    def require_submission(self) -> None:
        """Check that the task has a form for submissions.

        Raises:
            UnmaskError: the files of a task on texts are of no benchmark.
        """
        if self.model.head.pools and self.config.data.layout is None:
            raise UnmaskError(
                "predict: --submission needs the benchmark whose form the file has; give it as --layout NAME, or leave "
                "--submission out for JSON lines"
            )

    def write_submission(self, path: Path, found: Predicted) -> None:
        """Write predictions in the form that the server of their benchmark, or its scorer, takes."""
        if self.model.head.task == "entities":
            write_entities(path, found.examples, [one["tags"] for one in found.predictions])
        elif self.model.head.task == "qa":
            answers = [
                PredictedAnswer(one["id"], one["answer"], (), one.get("null_odds", 0.0)) for one in found.predictions
            ]
            rules = self.config.answers.rules
            write_answers(path, answers, null_odds=rules == "squad2", as_list=rules == "cjrc")
        else:
            benchmark = BENCHMARKS[str(self.config.data.layout)]
            values = [
                one["value"] if self.model.head.task == "regression" else one["label"] for one in found.predictions
            ]
            write_texts(path, benchmark, found.examples, values)


def _trained_on_pairs(settings: dict[str, Any]) -> bool | None:
    """Return whether the training file had pairs; None if the folder does not say which file it was."""
    benchmark = BENCHMARKS.get(str(settings.get("layout")))
    if benchmark is not None and benchmark.texts is not None:
        return benchmark.texts.pairs
    return "pair" in settings if settings.keys() & {"text", "pair"} else None


def _config(model: TaskModel, settings: dict[str, Any], name: str) -> FinetuneConfig:
    """Return the settings by which a model reads its inputs; what a folder does not say has its default."""
    length = min(settings.get("max_length", InputConfig().max_length), model.config.max_positions)
    config = FinetuneConfig(task=model.head.task, input=replace(InputConfig(), max_length=length))
    try:
        for group, cls in (("data", ExamplesConfig), ("input", InputConfig), ("answers", AnswersConfig)):
            known = {field.name for field in fields(cls)} & settings.keys() - {"max_length"}
            config = replace(
                config, **{group: replace(getattr(config, group), **{one: settings[one] for one in known})}
            )
    except SettingError as error:
        raise UnmaskError(
            f"predict: config.json of {name} has the setting {error.setting}, which {error.problem}; mend it there"
        ) from None
    return config
