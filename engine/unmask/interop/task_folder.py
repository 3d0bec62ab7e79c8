"""Reads and writes Hugging Face folders of fine-tuned BERT models.

    BertForSequenceClassification    encoder with pooler, classifier    classification, multi_label, regression
    BertForTokenClassification       encoder, classifier                entities
    BertForQuestionAnswering         encoder, qa_outputs                qa

`id2label` of config.json holds the names of the classes, and `problem_type` tells the first three apart. Where a folder
does not say it, `transformers` takes a layer of one output for a regression and any other for classes; so does this.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from unmask.config import EncoderConfig
from unmask.config.head import HeadConfig, HeadTask
from unmask.errors import CheckpointError, SettingError
from unmask.interop import hf, names
from unmask.interop.config_json import read_config, write_config
from unmask.interop.left_out import Difference
from unmask.interop.model_folder import CONFIG, describe_value, read_object
from unmask.interop.names import Parameter
from unmask.interop.weights import read_weights

__all__ = ["SETTINGS", "TaskFolder", "read_head", "read_task_model", "save_task_model", "task_layout"]

SETTINGS = "finetuning"
"""The field of config.json with the settings by which a fine-tuned model reads its inputs."""

ARCHITECTURES: dict[HeadTask, str] = {
    "classification": "BertForSequenceClassification",
    "multi_label": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "entities": "BertForTokenClassification",
    "qa": "BertForQuestionAnswering",
}
_PROBLEMS: dict[HeadTask, str] = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFolder:
    """A fine-tuned model in a folder.

    Attributes:
        head: its output layer.
        weights: its checked weights.
        settings: how it reads its inputs, if `unmask finetune` wrote the folder; else empty.
    """

    head: HeadConfig
    weights: hf.FolderWeights
    settings: dict[str, Any]


def read_head(folder: Path) -> HeadConfig | None:
    """Return the output layer that the config.json of a folder describes; None if it describes none.

    Raises:
        CheckpointError: config.json cannot be read, or its labels are no names.
    """
    theirs = read_object(folder / CONFIG)
    classes = theirs.get("architectures") or []
    task = next((one for one, name in ARCHITECTURES.items() if name in classes), None)
    if task is None:
        return None
    labels = _labels(theirs, folder)
    if task == "classification":
        found = next((one for one, problem in _PROBLEMS.items() if problem == theirs.get("problem_type")), None)
        task = found or ("regression" if len(labels) == 1 else "classification")
    named = () if task in ("regression", "qa") else labels
    given = theirs.get("classifier_dropout")
    dropout = theirs.get("hidden_dropout_prob", 0.1) if given is None else given
    try:
        return HeadConfig(task=task, labels=named, dropout=dropout)
    except SettingError as error:
        raise CheckpointError(
            f"{folder / CONFIG}: id2label: {error.setting} {error.problem}; write the names of the classes there"
        ) from None


def read_task_model(folder: Path) -> TaskFolder:
    """Read the encoder and the output layer of a folder; see `TaskModel.from_pretrained`.

    Raises:
        CheckpointError: the folder has no output layer, a weight is missing, or the weights do not fit config.json.
    """
    config = read_config(folder)
    head = read_head(folder)
    if head is None:
        raise CheckpointError(
            f"{folder} is no fine-tuned model (architectures of its {CONFIG} names none of "
            f"{', '.join(dict.fromkeys(ARCHITECTURES.values()))}); make one with `unmask finetune`"
        )
    weights = read_weights(folder)
    prefix = hf.encoder_prefix(weights, folder)
    parameters = hf.checked(_parameters(config, head, prefix), weights, prefix, folder)
    difference = Difference.of(weights, parameters, prefix=prefix, new=())
    return TaskFolder(
        head=head,
        weights=hf.FolderWeights(
            config=config,
            heads=(),
            difference=difference,
            pooler=head.pools,
            parameters=parameters,
            tensors=weights,
        ),
        settings=dict(read_object(folder / CONFIG).get(SETTINGS) or {}),
    )


def save_task_model(
    module: nn.Module,
    config: EncoderConfig,
    head: HeadConfig,
    folder: Path,
    *,
    pad_id: int = 0,
    settings: Mapping[str, Any] | None = None,
    for_transformers: bool = True,
) -> None:
    """Write a `TaskModel` as the class of transformers for its task.

    Args:
        module: the model.
        config: sizes of its encoder.
        head: its output layer.
        folder: where to; made when it is not there.
        pad_id: the tokenizer's id of [PAD].
        settings: how the model reads its inputs.
        for_transformers: with False, a causal encoder or one with local layers is written too.
    Raises:
        CheckpointError: transformers' BERT does not compute the encoder, and `for_transformers` is True.
    """
    ours = dict(module.named_parameters())
    parameters = list(task_layout(config, head))
    hf.require_parameters(folder, (parameter.ours for parameter in parameters), ours)
    folder.mkdir(parents=True, exist_ok=True)
    labels = head.labels or tuple(f"LABEL_{index}" for index in range(head.outputs))
    more: dict[str, Any] = {
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
    }
    if head.dropout != config.hidden_dropout:
        more["classifier_dropout"] = head.dropout
    if head.task in _PROBLEMS:
        more["problem_type"] = _PROBLEMS[head.task]
    if settings:
        more[SETTINGS] = dict(settings)
    write_config(
        config,
        folder,
        architecture=ARCHITECTURES[head.task],
        pad_id=pad_id,
        for_transformers=for_transformers,
        more=more,
    )
    weights: dict[str, Tensor] = {}
    for parameter in parameters:
        parts = ours[parameter.ours].detach().chunk(len(parameter.theirs))
        weights.update(zip(parameter.theirs, parts, strict=True))
    hf.save_weights(weights, folder)


def task_layout(config: EncoderConfig, head: HeadConfig) -> Iterator[Parameter]:
    """Yield the parameters of a `TaskModel`, with the names that the class of transformers has for them."""
    return _parameters(config, head, "bert.")


def _parameters(config: EncoderConfig, head: HeadConfig, prefix: str) -> Iterator[Parameter]:
    table = names.ENCODER | (names.POOLER if head.pools else {})
    theirs = prefix.removesuffix("bert.") + ("qa_outputs" if head.task == "qa" else "classifier")
    shape = (head.outputs, config.hidden_size)
    return chain(
        names.parameter_names(table, config, ours="encoder.", theirs=prefix),
        (
            Parameter(f"classifier.{kind}", (f"{theirs}.{kind}",), shape if kind == "weight" else shape[:1])
            for kind in ("weight", "bias")
        ),
    )


def _labels(theirs: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    given = theirs.get("id2label")
    if given is None:
        # transformers leaves out its default, two classes
        count = theirs.get("num_labels", 2)
        return tuple(f"LABEL_{index}" for index in range(count if isinstance(count, int) else 2))
    numbers = sorted(int(key) for key in given if re.fullmatch(r"\d+", str(key))) if isinstance(given, Mapping) else []
    if not isinstance(given, Mapping) or numbers != list(range(len(given))):
        raise CheckpointError(
            f"{folder / CONFIG}: id2label must name the classes 0, 1, ..., is {describe_value(given)}; write a name "
            "for each number from 0 on"
        )
    by_number = {int(cast(str, key)): str(name) for key, name in given.items()}
    return tuple(by_number[number] for number in numbers)
