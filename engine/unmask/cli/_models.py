"""Finding and loading a model: from a run directory, a checkpoint, or any folder that transformers loads."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.errors import CheckpointError, ConfigError, RunError
from unmask.paths import as_typed

if TYPE_CHECKING:
    from unmask.config import RunConfig
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import PretrainingModel

__all__ = ["ModelFolder", "config_of", "find_model", "load_model"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """A folder with config.json, weights and tokenizer.

    Attributes:
        path: the folder.
        steps: steps of training; None if they are not known.
    """

    path: Path
    steps: int | None


def find_model(path: Path) -> ModelFolder:
    """Return the newest whole checkpoint of a run directory, or `path` itself if it is a model folder.

    Damaged checkpoints of a run are passed over with a warning.

    Raises:
        RunError: the run has no checkpoint yet.
        CheckpointError: there is no such folder; it holds neither a run nor a model; it is a damaged checkpoint; or
            every checkpoint of the run is damaged.
    """
    from unmask.interop.model_folder import require_folder, require_model
    from unmask.train.checkpoint.checkpoints import is_checkpoint

    require_folder(path)
    if (path / "config.yaml").is_file() and not (path / "config.json").exists():
        return _newest(path)
    require_model(path)
    return _verified(path) if is_checkpoint(path) else ModelFolder(path=path, steps=None)


def load_model(found: ModelFolder) -> "tuple[PretrainingModel, Tokenizer]":
    """Load the model of a folder and its tokenizer.

    Raises:
        CheckpointError: see `PretrainingModel.from_pretrained`.
        TokenizerError: there is no tokenizer, or the model was trained with another one.
    """
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import PretrainingModel
    from unmask.train.checkpoint.tokenizer_hash import require_bound

    model = PretrainingModel.from_pretrained(found.path)
    tokenizer = Tokenizer.load(found.path)
    require_bound(found.path, tokenizer, model.encoder.config.token_rows)
    return model, tokenizer


def config_of(found: ModelFolder) -> "RunConfig | None":
    """Return the configuration of a checkpoint's run; None for other folders, or if it cannot be read."""
    run = found.path.parent.parent
    if found.path.parent.name != "checkpoints" or not (run / "config.yaml").is_file():
        return None
    from unmask.train.run_folder import saved_config

    try:
        return saved_config(run)
    except ConfigError:
        return None


def _newest(run: Path) -> ModelFolder:
    from unmask.train.checkpoint.checkpoints import Checkpoints, damage_of

    checkpoints = Checkpoints(folder=run / "checkpoints")
    problems: list[str] = []
    for step in reversed(checkpoints.steps()):
        path = checkpoints.path(step)
        problem = damage_of(path)
        if problem is not None:
            problems.append(problem)
            continue
        for problem in problems:
            _log.warning(f"{problem}; using {path.name} instead")
        return ModelFolder(path=path, steps=step)
    if problems:
        raise CheckpointError(f"no checkpoint in {run} is whole: {'; '.join(problems)}; start a new run")
    raise RunError(
        f"{run} has no checkpoint yet; wait for the first, after train.save_every steps, or continue it with `unmask "
        f"pretrain --resume {as_typed(run)}`"
    )


def _verified(path: Path) -> ModelFolder:
    from unmask.train.checkpoint.checkpoints import verify

    return ModelFolder(path=path, steps=int(verify(path)["step"]))
