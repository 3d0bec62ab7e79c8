"""Finding the folder of a model: from a run, a checkpoint, or any folder that transformers loads.

    runs/news                            its newest whole checkpoint
    runs/news/checkpoints/step-000500    this checkpoint, all its files verified
    folder with config.json              this folder

Whatever takes a model finds it here: `from_pretrained` and the commands.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from unmask.errors import CheckpointError, RunError
from unmask.interop.checkpoint_folder import damage_of, folder_of_step, is_checkpoint, steps_in, verify
from unmask.interop.model_folder import CONFIG, require_folder, require_model
from unmask.paths import as_typed

__all__ = ["ModelFolder", "find_model"]

_log = logging.getLogger(__name__)

_RUN = "config.yaml"
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """A folder with config.json and weights.

    Attributes:
        path: the folder.
        steps: steps of training; None if they are not known.
        run: directory of the run that the checkpoint belongs to; None for another folder.
    """

    path: Path
    steps: int | None = None
    run: Path | None = None


def find_model(given: str | Path | ModelFolder) -> ModelFolder:
    """Return the newest whole checkpoint of a run, or the folder itself if it is a model.

    A warning names the damaged checkpoints of a run that are passed over. What this function returned is taken as it
    is: its files are not read again.

    Raises:
        RunError: the run has no checkpoint yet.
        CheckpointError: there is no such folder; it holds neither a run nor a model; it is a damaged checkpoint; or
            every checkpoint of the run is damaged.
    """
    if isinstance(given, ModelFolder):
        return given
    path = Path(given)
    require_folder(path)
    if (path / _RUN).is_file() and not (path / CONFIG).exists():
        return _newest(path)
    require_model(path)
    steps = int(verify(path)["step"]) if is_checkpoint(path) else None
    return ModelFolder(path=path, steps=steps, run=_run_of(path))


def _newest(run: Path) -> ModelFolder:
    problems: list[str] = []
    for step in reversed(steps_in(run / _CHECKPOINTS)):
        path = folder_of_step(run / _CHECKPOINTS, step)
        problem = damage_of(path)
        if problem is not None:
            problems.append(problem)
            continue
        for problem in problems:
            _log.warning(f"{problem}; using {path.name} instead")
        return ModelFolder(path=path, steps=step, run=run)
    if problems:
        raise CheckpointError(f"no checkpoint in {run} is whole: {'; '.join(problems)}; start a new run")
    raise RunError(
        f"{run} has no checkpoint yet; wait for the first, after train.save_every steps, or continue it with `unmask "
        f"pretrain --resume {as_typed(run)}`"
    )


def _run_of(path: Path) -> Path | None:
    if len(path.parts) < 3:
        # the parents of a relative path end at the current folder
        path = path.absolute()
    run = path.parent.parent
    return run if path.parent.name == _CHECKPOINTS and (run / _RUN).is_file() else None
