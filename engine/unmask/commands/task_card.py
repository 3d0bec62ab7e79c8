"""The model card of a fine-tuned model: data, settings, scores and the command, as the files of its run say them.

Paths of this machine are left out; of a file only its name is told.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.commands.model_card import MARK, CardChoices, markdown_table, markdown_text
from unmask.config.settings import counted
from unmask.config.yaml_text import dump_yaml
from unmask.errors import ConfigError, RunError
from unmask.interop.hub import hub_model
from unmask.paths import as_typed
from unmask.tasks.finetune import SCORES, saved_finetune_config
from unmask.tasks.load import changed_task_settings

if TYPE_CHECKING:
    from unmask.data.tokenizer import Tokenizer
    from unmask.interop.find_model import ModelFolder
    from unmask.model.task_model import TaskModel
    from unmask.tasks.config import FinetuneConfig

__all__ = ["LOADERS", "task_card"]

LOADERS = {
    "classification": "AutoModelForSequenceClassification",
    "multi_label": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "entities": "AutoModelForTokenClassification",
    "qa": "AutoModelForQuestionAnswering",
}
"""The class of `transformers` that loads a model of each task."""

_PIPELINES = {
    **dict.fromkeys(("classification", "multi_label", "regression"), "text-classification"),
    "entities": "token-classification",
    "qa": "question-answering",
}
_FILES = ("train", "dev", "test")


def task_card(found: "ModelFolder", model: "TaskModel", tokenizer: "Tokenizer", choices: CardChoices) -> str:
    """Return the text of the card of a fine-tuned model.

    Args:
        found: the checkpoint or folder that was read.
        model: its model.
        tokenizer: its tokenizer.
        choices: what the user says.
    """
    config, scores = _config_of(found), _scores_of(found)
    name = choices.name or (found.run.absolute().name if found.run else found.hub or found.path.absolute().name)
    metadata = _metadata(model, config, choices)
    parts = [
        f"---\n{dump_yaml(metadata)}---\n\n{MARK}\n\n# {markdown_text(name)}\n\n{_what_it_is(model, tokenizer)}",
        _how_to_use(model.head.task, choices.name),
    ]
    if config is not None:
        parts.append(_training(config, scores))
    if scores:
        parts.append(_scores(scores))
    parts.append(_not_said(metadata, config))
    return "\n\n".join(parts) + "\n"


def _metadata(model: "TaskModel", config: "FinetuneConfig | None", choices: CardChoices) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": _PIPELINES[model.head.task],
        "tags": ["bert", "unmask"],
    }
    if choices.license is not None:
        metadata["license"] = choices.license
    if choices.languages:
        metadata["language"] = list(choices.languages)
    if config is not None and not Path(config.model).exists() and (origin := hub_model(config.model)) is not None:
        metadata["base_model"] = origin.repo
    return metadata


def _what_it_is(model: "TaskModel", tokenizer: "Tokenizer") -> str:
    config, head = model.config, model.head
    parameters = sum(one.numel() for one in model.parameters())
    what = {
        "classification": "the class of a text",
        "multi_label": "any number of classes of a text",
        "regression": "a number for a text",
        "entities": "a tag for each word",
        "qa": "where the answer to a question begins and ends",
    }[head.task]
    lines = [
        f"A BERT encoder with an output layer that predicts {what}: {config.num_layers} layers, {config.hidden_size} "
        f"wide, {tokenizer.vocab_size:,} tokens of vocabulary, {parameters:,} parameters."
    ]
    if head.labels:
        lines.append(f"{counted(len(head.labels), 'label')}: {', '.join(map(markdown_text, head.labels))}.")
    return "\n".join(lines)


def _how_to_use(task: str, name: str | None) -> str:
    place = json.dumps(name or "FOLDER")
    where = "" if name else "FOLDER is the folder of this file.\n\n"
    if task == "qa":
        # transformers 5 has no pipeline for questions
        return (
            f"## How to use it\n\n{where}```python\nfrom transformers import {LOADERS[task]}, AutoTokenizer\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({place})\nmodel = {LOADERS[task]}.from_pretrained({place})\n"
            f"```\n\n`unmask predict {as_typed(name or 'FOLDER')} FILE` answers the questions of a file."
        )
    return (
        f"## How to use it\n\n{where}```python\nfrom transformers import pipeline\n\n"
        f'predict = pipeline("{_PIPELINES[task]}", model={place})\nprint(predict("a text"))\n```\n\n'
        f"`unmask predict {as_typed(name or 'FOLDER')} FILE` predicts for the examples of a file."
    )


def _training(config: "FinetuneConfig", scores: Mapping[str, Any]) -> str:
    files = [(part, Path(given).name) for part in _FILES if (given := getattr(config.data, part)) is not None]
    rows = [(part, markdown_text(name)) for part, name in files]
    if scores:
        rows += [("steps", f"{scores['steps']:,}"), ("best step", f"{scores['best_step']:,}")]
    options = " ".join(f"--data.{part} {as_typed(name)}" for part, name in files)
    settings = dump_yaml(changed_task_settings(config)) or "{}\n"
    return "\n".join(
        [
            "## Training",
            "",
            *markdown_table(("", ""), rows),
            "",
            "The settings that differ from the defaults of unmask. This command trains with them, where "
            "`settings.yaml` holds these lines and MODEL is the model to start from:",
            "",
            f"```sh\nunmask finetune settings.yaml MODEL {options}\n```",
            "",
            f"```yaml\n{settings}```",
        ]
    )


def _scores(scores: Mapping[str, Any]) -> str:
    parts = [part for part in ("dev", "test") if part in scores]
    names = list(dict.fromkeys(name for part in parts for name in scores[part]))
    rows = [
        (part, *(f"{scores[part][name]:.4f}" if scores[part].get(name) is not None else "" for name in names))
        for part in parts
    ]
    chosen = f"The checkpoint with the best {scores['metric']} on the dev file." if "dev" in scores else ""
    return "\n".join(["## Scores", "", *([chosen, ""] if chosen else []), *markdown_table(("file", *names), rows)])


def _not_said(metadata: Mapping[str, Any], config: "FinetuneConfig | None") -> str:
    lines = ["## What this card does not say", ""]
    if config is None:
        lines.append("- How the model was trained, and on which examples: the folder does not say.")
    else:
        lines.append("- Where the examples come from and who may use them.")
    if "license" not in metadata:
        lines.append("- Under which licence the model may be used.")
    if "language" not in metadata:
        lines.append("- Which languages it knows.")
    lines.append("- Which errors and prejudices it took from its text: nobody measured it.")
    return "\n".join(lines)


def _config_of(found: "ModelFolder") -> "FinetuneConfig | None":
    with suppress(RunError, ConfigError):
        return None if found.run is None else saved_finetune_config(found.run)
    return None


def _scores_of(found: "ModelFolder") -> dict[str, Any]:
    with suppress(OSError, ValueError):
        value = json.loads((found.run / SCORES).read_text("utf-8")) if found.run else {}
        return value if isinstance(value, dict) else {}
    return {}
