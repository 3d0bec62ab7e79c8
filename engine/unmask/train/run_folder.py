"""The directory of a run: made once, locked while in use, its configuration saved with it.

config.yaml     what the run is; on resume a few settings may differ (see MAY_CHANGE) and are saved again
log.jsonl       one row a logged step; evaluation.jsonl: one row an evaluation
checkpoints/    see `checkpoint`
store/          the prepared text, when the run prepared it itself
composed/       sequences that are expensive to compose, made ahead; see `data.compose.stored`
"""

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from unmask.config import KernelsConfig, RunConfig, load_config, to_mapping, to_yaml
from unmask.durable import replace_text
from unmask.errors import RunError

__all__ = ["MAY_CHANGE", "RunFolder", "not_written", "saved_config"]

MAY_CHANGE = frozenset(
    {
        "run",
        "data.similar_words",
        "data.store",
        "data.workers",
        "train.steps",
        "train.log_every",
        "train.evaluate_every",
        "train.save_every",
        "train.keep_checkpoints",
        "train.tensorboard",
        "train.threads",
        *(f"kernels.{field.name}" for field in fields(KernelsConfig)),
    }
)
"""Settings that a resumed run may change; every other one would make it another run. `data.store` and
`data.similar_words` are where these lie now: a checkpoint knows the fingerprint of its data and refuses any other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """An existing run directory and the configuration it goes by."""

    path: Path
    config: RunConfig

    @classmethod
    def create(cls, config: RunConfig) -> "RunFolder":
        """Make the directory `config.run` (default: runs/<date and time>) and save the configuration in it.

        Raises:
            RunError: it exists and is not empty.
        """
        path = Path(config.run if config.run is not None else f"runs/{datetime.now():%Y%m%d-%H%M%S}")
        # What a process killed before it saved the configuration leaves.
        unfinished = {".config.yaml.partial"}
        if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()} - unfinished):
            raise RunError(
                f"run directory {path} exists already; continue it with `unmask pretrain --resume {path}` or choose "
                "another name with --run"
            )
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path=path, config=replace(config, run=str(path)))
        folder.save_config()
        return folder

    @classmethod
    def reopen(cls, path: Path, config: RunConfig) -> "RunFolder":
        """Open the run in `path` to continue it with `config`, which may differ from the saved one in MAY_CHANGE only.

        Raises:
            RunError: there is no run in `path`, or `config` changes what may not change.
        """
        before, after = flatten(to_mapping(saved_config(path))), flatten(to_mapping(config))
        changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        refused = [key for key in changed if key not in MAY_CHANGE]
        if refused:
            key = refused[0]
            named = {"kernels.*" if name.startswith("kernels.") else name for name in MAY_CHANGE - {"run"}}
            raise RunError(
                f"run {path}: {key} is {before.get(key)} in the saved configuration, got {after.get(key)}; resuming "
                f"may change only {', '.join(sorted(named))}, so start a new run for anything else"
            )
        return cls(path=path, config=replace(config, run=str(path)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from writing to the same run; the lock ends with the process, however it ends.

        Raises:
            RunError: another process holds it.
        """
        # A record lock: unlike flock it is not inherited by the loader's processes, which may outlive a killed run
        # briefly.
        with (self.path / ".lock").open("a") as handle:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(f"run {self.path} is in use by another process; wait for it or stop it") from error
            yield

    def abandon(self) -> None:
        """Remove a directory in which nothing was trained, prepared text and all, so that its name is free again."""
        if not _begun(self.path):
            shutil.rmtree(self.path)

    def save_config(self) -> None:
        """Write `config.yaml`, whole or not at all.

        Raises:
            RunError: the disk has no room or refuses.
        """
        file = self.path / "config.yaml"
        try:
            replace_text(file, to_yaml(self.config))
        except OSError as error:
            raise not_written(file, error) from error


def not_written(file: Path, error: OSError) -> RunError:
    """The error for a file of a run directory that the system refuses to write, with the way on from there."""
    run = file.parent
    way = f"continue with `unmask pretrain --resume {run}`" if _begun(run) else "start again"
    return RunError(f"{file} could not be written ({error.strerror}); make room and {way}")


def _begun(run: Path) -> bool:
    """Whether `run` holds anything that training made."""
    log = run / "log.jsonl"
    return (run / "checkpoints").exists() or (log.exists() and log.stat().st_size > 0)


def saved_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration saved in the run directory `path`, with `overrides` laid over it.

    Raises:
        RunError: `path` holds no run. ConfigError: the result is not valid.
    """
    file = path / "config.yaml"
    if not file.is_file():
        known = "it has no config.yaml" if path.is_dir() else "no such directory"
        raise RunError(f"run {path} cannot be resumed: {known}; start it with `unmask pretrain --run {path}`")
    return load_config(file, overrides, saved=True)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted names: {"train": {"steps": 5}} -> {"train.steps": 5}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
