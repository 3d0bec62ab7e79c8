"""The directory of a run: made once, locked while in use, its configuration saved with it.

config.yaml     what the run is; on resume a few settings may differ (see MAY_CHANGE) and are saved again
log.jsonl       one row a logged step; evaluation.jsonl: one row an evaluation
checkpoints/    see `checkpoint`
store/          the prepared text, when the run prepared it itself
composed/       sequences that are expensive to compose, made ahead; see `data.compose.stored`
.started_in     the folder that relative paths of the configuration begin at; see `start_folder`

Of two processes that begin a run under one name, one gets it. Without a name, each gets a directory of its own. What is
removed again is what was made here: a directory that was there before, a link or a mount stays.
"""

import errno
import fcntl
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from unmask.config import KernelsConfig, RunConfig, load_config, to_mapping, to_yaml
from unmask.errors import RunError
from unmask.paths import as_typed, replace_text
from unmask.train.start_folder import absolute_changes, note_start

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


# What a process killed before it saved the configuration leaves, and what an empty volume holds.
_EMPTY = frozenset({".config.yaml.partial", ".lock", ".started_in", "lost+found"})
_MADE = (
    *("config.yaml", ".config.yaml.partial", ".started_in", "log.jsonl", "evaluation.jsonl", "tensorboard"),
    *("store", "store.partial", "composed", ".log.jsonl.partial", ".evaluation.jsonl.partial", ".lock"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """An existing run directory, the configuration it goes by, and whether the directory was made for it."""

    path: Path
    config: RunConfig
    made: bool = False

    @classmethod
    def create(cls, config: RunConfig) -> "RunFolder":
        """Make the directory `config.run` (default: runs/<date and time>) and save the configuration in it.

        Raises:
            RunError: it exists and is not empty, or cannot be made.
        """
        path, made = _new_directory(config.run)
        folder = cls(path=path, config=replace(config, run=str(path)), made=made)
        folder._require_unused()
        with folder.locked():
            # another process may have been faster
            folder._require_unused()
            try:
                note_start(path)
                folder.save_config()
            except BaseException:
                folder.abandon()
                raise
        return folder

    def _require_unused(self) -> None:
        if {entry.name for entry in self.path.iterdir()} - _EMPTY:
            raise _exists(self.path)

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
        try:
            handle = (self.path / ".lock").open("a")
        except OSError as error:
            raise not_written(self.path / ".lock", error) from error
        with handle:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    # some network file systems
                    warnings.warn(f"run {self.path} cannot be locked ({error.strerror}); start it once", stacklevel=3)
                else:
                    raise RunError(
                        f"run {self.path} is in use by another process; wait for it, stop it, or choose another name "
                        "with --run"
                    ) from error
            yield

    def abandon(self) -> None:
        """Remove what a run in which nothing was trained has made, prepared text and all, so that its name is free
        again; never fails, since it follows an error of its own.
        """
        with suppress(OSError):
            if _begun(self.path):
                return
            for name in _MADE:
                made = self.path / name
                if made.is_symlink():
                    continue
                if made.is_dir():
                    shutil.rmtree(made, ignore_errors=True)
                else:
                    made.unlink(missing_ok=True)
            if self.made:
                self.path.rmdir()

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


def _new_directory(name: str | None) -> tuple[Path, bool]:
    """The directory of a new run, and whether it was made here; one that was there may have been empty."""
    try:
        if name is not None:
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                if not path.is_dir():
                    raise _exists(path) from None
                return path, False
            return path, True
        runs = Path("runs")
        runs.mkdir(exist_ok=True)
        begun = f"{datetime.now():%Y%m%d-%H%M%S}"
        # jobs of an array start in the same second
        for number in count(1):
            path = runs / (begun if number == 1 else f"{begun}-{number}")
            with suppress(FileExistsError):
                path.mkdir()
                return path, True
        raise AssertionError("count ends")
    except OSError as error:
        what = error.filename or name or "runs"
        raise RunError(
            f"run directory {what} cannot be made ({error.strerror}); choose another place with --run"
        ) from None


def _exists(path: Path) -> RunError:
    if not (path / "config.yaml").is_file():
        return RunError(f"run directory {path} exists already and holds no run; choose another name with --run")
    return RunError(
        f"run directory {path} exists already; continue it with `unmask pretrain --resume {as_typed(path)}` or choose "
        "another name with --run"
    )


def not_written(file: Path, error: OSError) -> RunError:
    """The error for a file of a run directory that the system refuses to write, with the way on from there."""
    run = file.parent
    way = f"continue with `unmask pretrain --resume {as_typed(run)}`" if _begun(run) else "start again"
    denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    first = "make the directory writable" if denied else "make room"
    return RunError(f"{file} could not be written ({error.strerror}); {first} and {way}")


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
        held = path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()} - _EMPTY)
        way = "give the directory of a run" if held else f"start it with `unmask pretrain --run {as_typed(path)}`"
        raise RunError(f"run {path} cannot be resumed: {known}; {way}")
    # what was saved is never empty, and defaults would make it another run
    if not file.stat().st_size:
        raise RunError(
            f"run {path} cannot be resumed: its config.yaml is empty; put the saved one back from a copy, or start a "
            "new run"
        )
    return load_config(file, absolute_changes(path, overrides or {}), saved=True)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted names: {"train": {"steps": 5}} -> {"train.steps": 5}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
