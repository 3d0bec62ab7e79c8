"""A fine-tuning run from its settings to its scores, new or resumed.

finetune.yaml       the settings, with absolute paths
log.jsonl           a row for each log interval; evaluation.jsonl has a row for each evaluation of the dev file
checkpoints/        the two newest states, from which the run resumes
best/               the model with the best score of the dev file, which `transformers` loads too
intermediate/       with a teacher, a run like this one that learns the layers; this one then learns the predictions
scores.json         the scores of the best model on the dev file and on the test file; written last
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unmask.config.settings import counted
from unmask.data.tokenizer import Tokenizer
from unmask.errors import ConfigError, RunError
from unmask.folders import FINETUNE
from unmask.model.task_model import TaskModel
from unmask.paths import as_typed, replace_text
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.data.rows import task_file
from unmask.tasks.distilled import INTERMEDIATE, TaskTeacher, of_layers
from unmask.tasks.finetuner import Finetuner, LabelledFile
from unmask.tasks.initial_model import InitialModel
from unmask.tasks.inputs import ModelInputs
from unmask.tasks.load import finetune_yaml, load_finetune_config
from unmask.tasks.objectives import task_objective
from unmask.tasks.optimizer import freeze_layers
from unmask.tasks.outputs import outputs_of
from unmask.tasks.task import head_of
from unmask.tasks.tasks import open_training_file
from unmask.terminal import messages_through
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.state import Facts, load_facts
from unmask.train.distilled import TEACHER
from unmask.train.logging.destinations import require_installed
from unmask.train.logging.log import destinations_of, read_evaluations
from unmask.train.logging.progress import Display
from unmask.train.precision import choose_precision
from unmask.train.run_folder import locked_run, new_directory, not_written, remove_empty
from unmask_kernels.attention.tunables import PADDING
from unmask_kernels.attention.tunables import shape as attention_shape
from unmask_kernels.tune.record import read_tuning
from unmask_kernels.tuned import Key, Value, from_text, using_values

__all__ = ["SCORES", "absolute_settings", "block_sizes", "finetune", "saved_finetune_config"]

SCORES = "scores.json"
"""The file of a finished run with its scores."""

_log = logging.getLogger(__name__)

# tokens of the mean input up to which attention on a CPU takes wide groups
_SHORT = 64
# percent of the work that padding may add to them
_WIDE = 50
_RESAMPLES = 1000
_EMPTY = frozenset({".finetune.yaml.partial", ".lock", "lost+found"})
_MADE = (
    *(FINETUNE, ".finetune.yaml.partial", "log.jsonl", "evaluation.jsonl", ".lock"),
    *("tensorboard", "loggers.json", ".loggers.json.partial", "wandb", TEACHER, f".{TEACHER}.partial"),
)


def finetune(config: FinetuneConfig | None = None, *, resume: str | Path | None = None) -> Path:
    """Fine-tune a model on a task, or go on with a run that stopped, and return the run directory.

    Args:
        config: settings of a new run, see `unmask.tasks.load.load_finetune_config`.
        resume: directory of the run to continue; its settings are the saved ones.
    Raises:
        ValueError: there are neither settings nor a run to continue, or both.
        RunError: the directory exists already, is in use, or holds nothing to resume; or the run diverged.
        ConfigError: a setting is wrong.
        CorpusError: a file of examples cannot be used.
        TokenizerError: the tokenizer cannot be used.
        CheckpointError: the model or a checkpoint cannot be read or written.
    """
    if (config is None) == (resume is None):
        raise ValueError("finetune: needs config or resume, one of them; pass the settings of a run, or its directory")
    _require_one_process()
    if resume is not None:
        path, made = Path(resume), list[Path]()
        config = saved_finetune_config(path)
    else:
        assert config is not None
        _require_given(config)
        require_installed(destinations_of(config.train))
        config = absolute_settings(config)
        path, made = new_directory(config.run)
        if {entry.name for entry in path.iterdir()} - _EMPTY:
            raise _exists(path)
        config = replace(config, run=str(path))
    display = Display()
    with locked_run(path), messages_through(display.show_message):
        try:
            if resume is None:
                replace_text(path / FINETUNE, finetune_yaml(config))
            _run_stages(config, path, display)
        except Exception:
            if resume is None:
                _abandon(path, made)
            raise
    return path


def saved_finetune_config(run: Path) -> FinetuneConfig:
    """Read the settings of a fine-tuning run.

    Raises:
        RunError: there is no such run, or its file is empty.
        ConfigError: its file was altered.
    """
    file = run / FINETUNE
    if not file.is_file():
        known = f"it has no {FINETUNE}" if run.is_dir() else "no such directory"
        raise RunError(f"run {run} cannot be resumed: {known}; give the directory of a run of unmask finetune")
    if not file.stat().st_size:
        raise RunError(
            f"run {run} cannot be read: its {FINETUNE} is empty; put the saved one back from a copy, or start a new run"
        )
    return load_finetune_config(file, saved=True)


def _require_given(config: FinetuneConfig) -> None:
    if not config.model:
        raise ConfigError("config: model must name the model to start from; give a run, a checkpoint or a folder")
    if config.data.train is None:
        raise ConfigError("config: data.train must name the file to train on; give it as --data.train FILE")
    # before hours of training, not after them
    for file in (config.data.train, config.data.dev, config.data.test, config.distillation.prediction_data):
        if file is not None and "://" not in file:
            task_file(file)


def _require_one_process() -> None:
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise RunError(
            f"finetune: trains in one process, and WORLD_SIZE is {processes}; start it without torchrun, or unset "
            "WORLD_SIZE"
        )


def absolute_settings(config: FinetuneConfig) -> FinetuneConfig:
    """Return the settings with absolute paths, so that the run resumes from any folder."""

    def absolute(group: Any, *names: str) -> Any:
        found = {name: getattr(group, name) for name in names}
        there = {name: str(Path(given).absolute()) for name, given in found.items() if given and Path(given).exists()}
        return replace(group, **there)

    return absolute(
        replace(
            config,
            data=absolute(config.data, "train", "dev", "test"),
            distillation=absolute(config.distillation, "teacher", "prediction_data"),
        ),
        "model",
    )


def _exists(path: Path) -> RunError:
    if (path / FINETUNE).is_file():
        return RunError(
            f"run directory {path} exists already; continue it with `unmask finetune --resume {as_typed(path)}` or "
            "choose another name with --run"
        )
    return RunError(f"run directory {path} exists already and holds no run; choose another name with --run")


def _abandon(path: Path, made: Sequence[Path]) -> None:
    """Remove what the run made, unless it has trained. Never fails, because the caller handles another error."""
    with suppress(OSError):
        log = path / "log.jsonl"
        if (path / INTERMEDIATE).exists():
            _abandon(path / INTERMEDIATE, [path / INTERMEDIATE])
        if (path / INTERMEDIATE).exists() or (path / "checkpoints").exists() or (log.exists() and log.stat().st_size):
            return
        for name in _MADE:
            if (path / name).is_dir():
                shutil.rmtree(path / name, ignore_errors=True)
            else:
                (path / name).unlink(missing_ok=True)
        remove_empty(made)


def _run_stages(config: FinetuneConfig, path: Path, display: Display) -> None:
    """Learn the layers of the teacher, if there is one, in a run inside this one; then train to the end."""
    distillation, inner = config.distillation, path / INTERMEDIATE
    if distillation.teacher is not None and distillation.stage == "prediction" and not (path / SCORES).exists():
        if distillation.intermediate_epochs > 0:
            if not (inner / SCORES).exists():
                inner.mkdir(exist_ok=True)
                layers = of_layers(config, inner)
                replace_text(inner / FINETUNE, finetune_yaml(layers))
                _run(layers, inner, display)
            if not (inner / SCORES).exists():
                # a signal stopped it
                return
            config = replace(config, model=str(inner))
        data = distillation.prediction_data or config.data.train
        config = replace(config, data=replace(config.data, train=data))
    _run(config, path, display)


def _run(config: FinetuneConfig, path: Path, display: Display) -> None:
    """Continue the run in `path` from its checkpoint, or start it, and train to its end."""
    if (path / SCORES).exists():
        _log.info(f"already finished: its scores are in {path / SCORES}; start a new run for other settings")
        return
    for name in ("checkpoints", "best"):
        Checkpoints(folder=path / name).clean()
    newest = Checkpoints(folder=path / "checkpoints").latest_valid()
    facts = None if newest is None else load_facts(newest / "training")
    if config.train.threads is not None or facts is not None:
        torch.set_num_threads(config.train.threads or facts.threads)  # type: ignore[union-attr]
    begun = time.perf_counter()
    finetuner = _finetuner(config, path, display, newest, facts)
    known = from_text(facts.tuned or {}) if facts is not None else block_sizes(finetuner.model, finetuner.train)
    with using_values(known):
        if finetuner.run():
            _finish(finetuner, seconds=time.perf_counter() - begun)


def block_sizes(model: TaskModel, train: ModelInputs) -> dict[Key, Value]:
    """Return the block sizes of a new run, for `using_values`; a resumed one has those of its checkpoint.

    On a CPU, attention over a step of short texts spends more time on the number of its groups than on padding in them,
    so groups are wider there. What `unmask tune` found on this machine counts more.

    Args:
        model: the model, on the device to train on.
        train: inputs of the training file.
    """
    config, dtype = model.config, model.encoder.compute_dtype
    found: dict[Key, Value] = {}
    if train.lengths.mean() <= _SHORT:
        for dropout in (False, True):
            found[Key(PADDING.name, attention_shape(config.head_dim, dtype, dropout=dropout, banded=False))] = _WIDE
    return found | read_tuning(next(model.parameters()).device).values()


def _finetuner(
    config: FinetuneConfig, path: Path, display: Display, newest: Path | None, facts: Facts | None
) -> Finetuner:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    saved = None if facts is None else facts.machine.get("activations")
    wanted = saved if config.train.dtype == "auto" and saved in ("float32", "bfloat16") else config.train.dtype
    precision = choose_precision(wanted, device, saved=saved is not None)  # type: ignore[arg-type]
    teacher = None
    if config.distillation.teacher is not None:
        teacher = TaskTeacher.open(config, path, dtype=precision.dtype, device=device)
    if newest is None:
        initial = InitialModel.open(config)
        known = teacher.labels if teacher is not None else None if initial.head is None else initial.head.labels
        task, examples = open_training_file(config, known)
        if teacher is not None:
            teacher.require_labels(task.labels)
        initial.require_labels(task.labels)
        head = head_of(task, config, initial.sizes.hidden_dropout)
        model, tokenizer = initial.build(head, config=config, dtype=precision.dtype), initial.tokenizer
    else:
        model = TaskModel.from_pretrained(newest, compute_dtype=precision.dtype, seed=config.seed)
        tokenizer = Tokenizer.load(newest)
        task, examples = open_training_file(config, model.head.labels)
    freeze_layers(model, config.head.frozen_layers)
    model = model.to(device)
    objectives = None
    if teacher is not None:
        teacher.require_tokenizer(tokenizer)
        objectives = teacher.objectives(model)
    train = task.inputs(examples, tokenizer)
    dev = None
    if config.data.dev is not None:
        held = task.read(Path(config.data.dev))
        dev = LabelledFile(examples=held, inputs=task.inputs(held, tokenizer))
    size = sum(p.numel() for p in model.parameters())
    dtype = str(precision.dtype).removeprefix("torch.")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = "" if trained == size else f", {trained:,} of them trained"
    _log.info(f"model: {size:,} parameters{frozen} on {device}, activations in {dtype} ({precision.reason})")
    finetuner = Finetuner(
        config=config,
        folder=path,
        task=task,
        model=model,
        tokenizer=tokenizer,
        train=train,
        dev=dev,
        display=display,
        objectives=objectives or [(task_objective(model.head.task), 1.0)],
    )
    _log.info(
        f"data: {counted(len(examples), 'example')} to train on, {finetuner.steps:,} steps of "
        f"{config.train.batch_size}"
        + ("" if dev is None else f"; {counted(len(dev.examples), 'example')} of the dev file")
    )
    if task.labels:
        _log.info(f"data: {counted(len(task.labels), 'label')}: {', '.join(task.labels[:20])}")
    if newest is not None and facts is not None:
        finetuner.restore(newest, facts)
    return finetuner


def _finish(finetuner: Finetuner, *, seconds: float) -> None:
    """Score the best model on the test file, and write the scores."""
    config, task, path = finetuner.config, finetuner.task, finetuner.folder
    best = finetuner.best.latest_valid()
    assert best is not None
    found: dict[str, Any] = {
        "task": config.task,
        # the second stage of distillation begins with the model of the first
        "model": saved_finetune_config(path).model,
        **({} if config.distillation.teacher is None else {"teacher": config.distillation.teacher}),
        "seed": config.seed,
        "labels": list(task.labels),
        "steps": finetuner.done,
        "best_step": int(best.name.removeprefix("step-")),
        "metric": finetuner.metric,
        "seconds": round(seconds, 1),
    }
    rows = [row for row in read_evaluations(path) if row["step"] == found["best_step"]]
    if rows:
        found["dev"] = {name: value for name, value in rows[-1].items() if name not in ("event", "step", "epoch")}
    files = {} if finetuner.dev is None else {"dev": finetuner.dev}
    if config.data.test is not None:
        examples = task.read(Path(config.data.test))
        if task.has_labels(examples):
            files["test"] = LabelledFile(examples=examples, inputs=task.inputs(examples, finetuner.tokenizer))
        else:
            _log.info(f"data: {config.data.test} has no labels, so nothing is scored there; `unmask predict` reads it")
    if files:
        model = TaskModel.from_pretrained(best, compute_dtype=finetuner.model.encoder.compute_dtype)
        model = model.to(finetuner.device)
        found["intervals"] = {}
    for part, file in files.items():
        outputs = outputs_of(model, file.inputs)
        predictions = task.predictions(outputs, file.inputs, file.examples)
        scores = task.scores(predictions, file.examples, resamples=_RESAMPLES)
        found.setdefault(part, {"loss": outputs.loss, **scores.values})
        found["intervals"][part] = scores.intervals
    try:
        replace_text(path / SCORES, json.dumps(found, indent=2) + "\n")
    except OSError as error:
        raise not_written(path / SCORES, error) from error
    for part in ("dev", "test"):
        if part in found:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in found[part].items() if value is not None)
            finetuner.tell(f"{part}, best model (step {found['best_step']}): {shown}")
    finetuner.tell(f"done: {counted(finetuner.done, 'step')}, model in {best}, scores in {path / SCORES}")
    if config.distillation.stage == "intermediate":
        return
    _log.info(f"try: unmask predict {as_typed(path)} FILE --out predictions.jsonl")
