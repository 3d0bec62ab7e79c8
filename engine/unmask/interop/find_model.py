"""Finding the folder of a model: from a run, a checkpoint, any folder that transformers loads, or a name of the Hub.

    runs/news                            its newest checkpoint whose model is whole
    runs/news/checkpoints/step-000500    this checkpoint, all files of its model verified
    folder with config.json              this folder
    ORG/NAME, ORG/NAME@REVISION          the files in the cache of the Hugging Face Hub (`hub.py`)

Whatever takes a model finds it here: `from_pretrained` and the commands. A path that exists is never looked up at the
Hub.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from unmask.errors import CheckpointError, RunError
from unmask.folders import FINETUNE
from unmask.interop.checkpoint_folder import is_checkpoint, newest_whole, verify_checkpoint
from unmask.interop.hub import HubModel, NotAtHubError, hub_model, snapshot
from unmask.interop.model_folder import CONFIG, absent, require_folder, require_model
from unmask.paths import as_typed

__all__ = ["ModelFolder", "find_model"]

_log = logging.getLogger(__name__)

_RUN = "config.yaml"
_CHECKPOINTS = "checkpoints"
# of a fine-tuning run: the model with the best score
_BEST = "best"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """A folder with config.json and weights.

    Attributes:
        path: the folder.
        steps: steps of training; None if they are not known.
        run: directory of the run that the checkpoint belongs to; None for another folder.
        hub: its name at the Hugging Face Hub; None if it does not come from there.
    """

    path: Path
    steps: int | None = None
    run: Path | None = None
    hub: str | None = None

    @property
    def name(self) -> str:
        """What people call it: its name at the Hub, else its path."""
        return self.hub or str(self.path)


def find_model(given: str | Path | ModelFolder, *, revision: str | None = None) -> ModelFolder:
    """Return the newest whole checkpoint of a run, the folder itself if it is a model, or the cached files of the Hub.

    The optimizer's state is not read, so damage to it does not count. A warning names the damaged checkpoints of a run
    that are passed over. What this function returned is taken as it
    is: its files are not read again.

    Args:
        given: a run, a checkpoint, a model folder, or a name or address of the Hub.
        revision: branch, tag or commit of a model of the Hub; as in ORG/NAME@REVISION.
    Raises:
        RunError: the run has no checkpoint yet.
        CheckpointError: there is no such folder; it holds neither a run nor a model; it is a damaged checkpoint; or
            every checkpoint of the run is damaged.
        HubError: the Hub does not give the model.
        ValueError: a revision is given for a folder, or two revisions.
    """
    if isinstance(given, ModelFolder):
        return given
    path = Path(given)
    model = None if os.path.lexists(path) else hub_model(given)
    if model is not None:
        return _of_hub(path, model.with_revision(revision))
    require_folder(path)
    if revision is not None:
        raise ValueError(
            f"from_pretrained: revision {revision!r} is for a model of the Hugging Face Hub, and {path} is a folder "
            "here; leave revision out"
        )
    if not (path / CONFIG).exists() and _is_run(path):
        return _newest(path)
    require_model(path)
    steps = int(verify_checkpoint(path, model_only=True)["step"]) if is_checkpoint(path) else None
    return ModelFolder(path=path, steps=steps, run=_run_of(path))


def _of_hub(path: Path, model: HubModel) -> ModelFolder:
    try:
        folder = snapshot(model, files="model")
    except NotAtHubError as problem:
        if model.surely:
            raise
        raise CheckpointError(absent(path, f"; {problem}")) from None
    require_model(folder)
    return ModelFolder(path=folder, hub=str(model))


def _is_run(path: Path) -> bool:
    return (path / _RUN).is_file() or (path / FINETUNE).is_file()


def _newest(run: Path) -> ModelFolder:
    tuned = (run / FINETUNE).is_file()
    path, damaged = newest_whole(run / (_BEST if tuned else _CHECKPOINTS), model_only=True)
    if path is not None:
        for _, damage in damaged:
            _log.warning(f"{damage}; using {path.name} instead")
        return ModelFolder(path=path, steps=int(path.name.removeprefix("step-")), run=run)
    if damaged:
        problems = "; ".join(damage for _, damage in damaged)
        raise CheckpointError(f"no checkpoint in {run} is whole: {problems}; start a new run")
    if tuned:
        raise RunError(
            f"{run} has no evaluated model yet; wait for its first evaluation, or continue it with `unmask finetune "
            f"--resume {as_typed(run)}`"
        )
    raise RunError(
        f"{run} has no checkpoint yet; wait for the first, after train.save_every steps, or continue it with `unmask "
        f"pretrain --resume {as_typed(run)}`"
    )


def _run_of(path: Path) -> Path | None:
    if len(path.parts) < 3:
        # the parents of a relative path end at the current folder
        path = path.absolute()
    run = path.parent.parent
    return run if path.parent.name in (_CHECKPOINTS, _BEST) and _is_run(run) else None
