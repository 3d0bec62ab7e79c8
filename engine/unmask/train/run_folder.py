"""The directory of a run: made once, locked while in use, and what is saved in it besides logs and checkpoints.

config.yaml     the settings; a resumed run may change a few of them (MAY_CHANGE) and saves the file again
log.jsonl       a row for each log interval; evaluation.jsonl has a row for each evaluation
spikes.jsonl    a row for each spike of the loss that the run went back from; see `spikes`
checkpoints/    see `checkpoint.checkpoints`
store/          the prepared text, if the run prepared it itself
composed/       sequences that are expensive to compose, made ahead; see `data.compose.stored`
initial.json    what the run started from, with `init.from`; see `initial`
teacher.json    what the run learns from, with `distillation.teacher`; see `distilled`
.started_in     the way from here to the folder that the run was started in, where its relative paths begin

If two processes start a run under one name, one of them gets it. Without a name, each gets a directory of its own.
`abandon` removes only what the run made: a directory that existed before, a link or a mount stays.

The configuration keeps `data.store: store` as it was given. With `.started_in`, a run resumes from any folder, and a
project that was moved or copied as a whole still finds its store. A path that does not exist there is tried in the
current folder; so are all paths of runs of earlier versions, which wrote no `.started_in`.
"""

import difflib
import errno
import fcntl
import glob
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from unmask.config import BUDGETS, KernelsConfig, RunConfig, load_config, to_mapping, to_yaml
from unmask.config.mappings import flat
from unmask.data.store.unfinished import unfinished_hint
from unmask.errors import RunError
from unmask.folders import FINETUNE, kind_of
from unmask.interop.hub import hub_model
from unmask.paths import as_typed, expanded, printable, replace_text, way_to_room

__all__ = [
    "MAY_CHANGE",
    "RunFolder",
    "located",
    "locked_run",
    "new_directory",
    "not_written",
    "note_start",
    "remove_empty",
    "resume_command",
    "saved_config",
]

_log = logging.getLogger(__name__)

MAY_CHANGE = frozenset(
    {
        "run",
        "data.store",
        "data.cache_folder",
        "data.cache_gb",
        "data.cache_patience",
        "masking.similar_words",
        "distillation.teacher",
        "stream.workers",
        *(f"train.{name}" for name in BUDGETS),
        "train.activation_checkpointing",
        "train.parallel",
        "train.compile",
        "train.device",
        "train.graph",
        "train.log_every",
        "train.evaluate_every",
        "train.save_every",
        "train.keep_checkpoints",
        "train.spike_guard",
        "train.spike_rows",
        "train.spike_limit",
        "train.log_gradient_norms",
        "train.tensorboard",
        "train.wandb",
        "train.trackio",
        "train.mlflow",
        "train.threads",
        "train.timeout_seconds",
        *(f"kernels.{field.name}" for field in fields(KernelsConfig)),
    }
)
"""Settings that a resumed run may change; any other change would make it another run. `data.store`,
`masking.similar_words` and `distillation.teacher` may have moved: a checkpoint knows the fingerprint of its data, and
`teacher.json` the weights of the teacher, and any other ones are refused."""

_STARTED_IN = ".started_in"
# in hf://owner/name, s3://bucket and other addresses
_ADDRESS = "://"
# settings that are one path, with the names of their groups
_PATHS = (("data", "store"), ("data", "tokenizer"), ("masking", "similar_words"), ("distillation", "teacher"))

# of these, the ones that take a model of the Hugging Face Hub too
_OF_HUB = frozenset({"data.tokenizer", "distillation.teacher"})

_PREPARED = "store.partial"
# What a process leaves that was killed before it saved the configuration, text that was prepared for a run that failed
# then, and what an empty volume holds.
_EMPTY = frozenset({".config.yaml.partial", ".lock", ".started_in", "lost+found", _PREPARED})
_MADE = (
    *("config.yaml", ".config.yaml.partial", ".started_in", "log.jsonl", "evaluation.jsonl", "tensorboard"),
    *("loggers.json", ".loggers.json.partial", "wandb"),
    *("initial.json", ".initial.json.partial", "teacher.json", ".teacher.json.partial"),
    *("store", _PREPARED, "composed", ".log.jsonl.partial", ".evaluation.jsonl.partial", ".lock"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """An existing run directory.

    Attributes:
        path: the directory.
        config: configuration of the run.
        made: the directories that were made for this run, the innermost first; none if `path` was there.
    """

    path: Path
    config: RunConfig
    made: Sequence[Path] = ()

    @classmethod
    def create(cls, config: RunConfig) -> "RunFolder":
        """Make the directory `config.run` (default: runs/<date and time>) and save the configuration in it.

        Raises:
            RunError: it exists and is not empty, or cannot be made.
        """
        path, made = new_directory(config.run)
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
        """Open the run in `path`, to continue it with `config`.

        Raises:
            RunError: there is no run in `path`, or `config` changes what may not change.
        """
        before, after = flat(to_mapping(saved_config(path))), flat(to_mapping(config))
        changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        refused = [key for key in changed if key not in MAY_CHANGE]
        if any(key.startswith("init.") for key in refused):
            raise RunError(
                f"run {path}: init.from and resume are given together, but a resumed run goes on with its own weights; "
                f"leave init.from out, or start a new run from it with another --run, without resume"
            )
        text = next((name for name in ("data.store", "data.input") if before.get(name) and not after[name]), None)
        if text is not None:
            raise RunError(
                f"run {path}: {text} is {before[text]} in the saved configuration, and this one has none; make it from "
                f"the saved one, with unmask.load_config({str(path / 'config.yaml')!r}, {{'train.steps': 1000}}), or "
                "leave config out"
            )
        if refused:
            key = refused[0]
            named = {"kernels.*" if name.startswith("kernels.") else name for name in MAY_CHANGE - {"run"}}
            raise RunError(
                f"run {path}: {key} is {before.get(key)} in the saved configuration, got {after.get(key)}; resuming "
                f"may change only {', '.join(sorted(named))}, so start a new run for anything else"
                f"{_from_its_weights(path, key, after.get(key))}"
            )
        timed = [after["train.minutes"] is not None, before.get("train.minutes") is not None]
        if timed[0] != timed[1]:
            given, kept = (next(name for name in BUDGETS if one.get(f"train.{name}")) for one in (after, before))
            raise RunError(
                f"run {path}: train.{kept} is {before[f'train.{kept}']} in the saved configuration, got train.{given} "
                f"{after[f'train.{given}']}; a run that began by the clock ends by it, and no other does, so give "
                f"{'train.minutes' if timed[1] else 'train.steps or train.epochs'} or start a new run"
            )
        return cls(path=path, config=replace(config, run=str(path)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from writing to the run; see `locked_run`."""
        with locked_run(self.path):
            yield

    def abandon(self) -> None:
        """Remove what the run made, so that its name is free again.

        Text of which a shard is prepared stays: a run of this name goes on with it. Does nothing if the run has
        trained. Never fails, because the caller handles another error.
        """
        with suppress(OSError):
            if _begun(self.path):
                return
            unfinished = unfinished_hint(self.path / "store") is not None
            if unfinished:
                _log.warning(
                    f"{self.path / _PREPARED} holds prepared text; the same settings of data with --run "
                    f"{as_typed(self.path)} go on with it, or remove it to start afresh"
                )
            for name in _MADE:
                made = self.path / name
                if made.is_symlink() or (unfinished and name == _PREPARED):
                    continue
                if made.is_dir():
                    shutil.rmtree(made, ignore_errors=True)
                else:
                    made.unlink(missing_ok=True)
            remove_empty(self.made)

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


@contextmanager
def locked_run(path: Path) -> Iterator[None]:
    """Keep a second process from writing to the run in `path`. The lock ends with the process, however it ends.

    Raises:
        RunError: another process holds it.
    """
    # The loader's processes do not inherit a record lock, as they would flock's; they may outlive a killed run.
    try:
        handle = (path / ".lock").open("a")
    except OSError as error:
        raise not_written(path / ".lock", error) from error
    with handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                # Some network file systems have no locks.
                warnings.warn(f"run {path} cannot be locked ({error.strerror}); start it once", stacklevel=3)
            else:
                raise RunError(
                    f"run {path} is in use by another process; wait for it, stop it, or choose another name with --run"
                ) from error
        yield


def new_directory(name: str | None) -> tuple[Path, list[Path]]:
    """Return the directory of a new run, and the directories that this call made, the innermost first.

    The one of the run may have existed and be empty.

    Raises:
        RunError: it is a file, or it cannot be made.
    """
    try:
        if name is not None:
            path = Path(name)
            made = _missing(path.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                if not path.is_dir():
                    raise _exists(path) from None
                return path, []
            return path, [path, *made]
        runs = Path("runs")
        made = _missing(runs)
        begun = f"{datetime.now():%Y%m%d-%H%M%S}"
        # Jobs of an array start in the same second.
        for number in count(1):
            path = runs / (begun if number == 1 else f"{begun}-{number}")
            # another job may remove the empty runs/ that it made
            runs.mkdir(exist_ok=True)
            with suppress(FileExistsError, FileNotFoundError):
                path.mkdir()
                return path, [path, *made]
        raise AssertionError("count ends")
    except OSError as error:
        what = error.filename or name or "runs"
        raise RunError(
            f"run directory {what} cannot be made ({error.strerror}); choose another place with --run"
        ) from None


def _missing(folder: Path) -> list[Path]:
    """Return the directories that `mkdir` would make for `folder`, the innermost first."""
    return list(takewhile(lambda one: not one.exists(), (folder, *folder.parents)))


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove directories, the innermost first, up to one in which there is something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _from_its_weights(path: Path, setting: str, value: object) -> str:
    """Return a clause with the command that starts another run from the weights of this one; empty if none can."""
    group = setting.partition(".")[0]
    if group in ("data", "model", "run") or not any((path / "checkpoints").glob("step-*")):
        return ""
    given = as_typed(str(value)) if value is None or isinstance(value, str | int | float) else "..."
    return (
        f", from its weights: `unmask pretrain {as_typed(path / 'config.yaml')} --init.from {as_typed(path)} "
        f"--{setting} {given} --run NEW`"
    )


def _exists(path: Path) -> RunError:
    if not (path / "config.yaml").is_file():
        return RunError(f"run directory {path} exists already and holds no run; choose another name with --run")
    again = f"continue it with `unmask pretrain --resume {as_typed(path)}`"
    if not (path / "checkpoints").exists():
        return RunError(
            f"run directory {path} exists already, with no checkpoint yet; {again}, which keeps its settings and its "
            f"text, remove it with `rm -r {as_typed(path)}` unless it is training now, or choose another name with "
            "--run"
        )
    return RunError(f"run directory {path} exists already; {again} or choose another name with --run")


def not_written(file: Path, error: OSError) -> RunError:
    """Return the error for a file of a run directory that cannot be written."""
    run = file.parent
    way = f"continue with `{resume_command(run)}`" if _begun(run) else "start again"
    denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    first = "make the directory writable" if denied else way_to_room(error.strerror)
    return RunError(f"{file} could not be written ({error.strerror}); {first} and {way}")


def resume_command(run: Path) -> str:
    """Return the command that continues a run, of pre-training or of fine-tuning."""
    command = "finetune" if (run / FINETUNE).exists() else "pretrain"
    return f"unmask {command} --resume {as_typed(run)}"


def _begun(run: Path) -> bool:
    """Return whether training wrote anything to `run`."""
    log = run / "log.jsonl"
    return (run / "checkpoints").exists() or (log.exists() and log.stat().st_size > 0)


def saved_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read the configuration saved in the run directory `path`, with `overrides` laid over it.

    Relative paths in `overrides` are meant from the current folder. If the run was started elsewhere, they become
    absolute.

    Raises:
        RunError: `path` holds no run.
        ConfigError: the result is not valid.
    """
    file = path / "config.yaml"
    if not file.is_file():
        known = "it has no config.yaml" if path.is_dir() else "no such directory"
        raise RunError(f"run {path} cannot be resumed: {known}; {_way_to_run(path)}")
    # A saved file is never empty, and the defaults that an empty one stands for would be another run.
    if not file.stat().st_size:
        raise RunError(
            f"run {path} cannot be read: its config.yaml is empty; put the saved one back from a copy, or start a new "
            "run"
        )
    return load_config(file, _absolute_changes(path, overrides or {}), saved=True)


def _way_to_run(path: Path) -> str:
    """Return what to do about a path that holds no run. A new run is offered only where it disturbs nothing."""
    if kind_of(path) == "fine-tuning run":
        return f"it is a run of unmask finetune, so continue it with `unmask finetune --resume {as_typed(path)}`"
    for parent in path.parents:
        if kind_of(parent) == "run":
            return f"continue the run that it lies in with `unmask pretrain --resume {as_typed(parent)}`"
    if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()} - _EMPTY):
        if kind_of(path) == "model":
            return "it is a model without the state of its training, so give the directory of a run"
        return "give the directory of a run"
    if any(kind_of(parent) is not None for parent in path.parents):
        return "give the directory of a run"
    if (near := _similar_run(path)) is not None:
        return f"did you mean `unmask pretrain --resume {as_typed(near)}`?"
    return f"start it with `unmask pretrain --run {as_typed(path)}`"


def _similar_run(path: Path) -> Path | None:
    """Return a run of nearly the same name beside `path` or in runs/; None if there is none."""
    runs = {
        one.name: one for folder in (Path("runs"), path.parent) for one in folder.glob("*") if kind_of(one) == "run"
    }
    close = difflib.get_close_matches(path.name, runs, n=1, cutoff=0.7)
    return runs[close[0]] if close else None


def note_start(run: Path) -> None:
    """Write to the run directory `run` that the run starts in the current folder."""
    try:
        here = Path.cwd()
    except OSError:
        # The current folder was removed, so no relative path leads anywhere.
        return
    (run / _STARTED_IN).write_bytes(os.fsencode(os.path.relpath(here, run.resolve())))


def located(config: RunConfig, run: Path) -> RunConfig:
    """Return `config`, saved in `run`, with relative paths that work from the current folder.

    Raises:
        RunError: a path exists neither in the folder where the run was started nor here.
    """
    start = _elsewhere(run)
    if start is None:
        return config
    initial = config.init.from_
    if initial is not None and (start / initial).exists():
        # only a run that has no checkpoint yet reads it, so it may be gone
        config = replace(config, init=replace(config.init, from_=str(start / initial)))
    inputs = [_located_input(given, start) for given in config.data.input]
    config = replace(config, data=replace(config.data, input=inputs))
    for group, name in _PATHS:
        given = getattr(getattr(config, group), name)
        if given is None or Path(given).is_absolute() or _ADDRESS in given:
            continue
        if (start / given).exists():
            config = replace(config, **{group: replace(getattr(config, group), **{name: str(start / given)})})
        elif not Path(given).exists() and not _may_be_of_hub(f"{group}.{name}", given):
            raise RunError(
                f"run {run}: {group}.{name} is {printable(given)}, which is neither in {start}, where the run was "
                f"started, nor here; put it back, or give its place now as --{group}.{name}"
            )
    return config


def _absolute_changes(run: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `changes` with absolute paths if the run was started in another folder than the current one."""
    flat_changes = flat(changes)
    if _elsewhere(run) is None:
        return flat_changes
    paths = {f"{group}.{name}" for group, name in _PATHS}
    return {
        name: str(Path(expanded(value)).resolve())
        if name in paths and isinstance(value, str) and _ADDRESS not in value and not _may_be_of_hub(name, value)
        else value
        for name, value in flat_changes.items()
    }


def _may_be_of_hub(setting: str, given: str) -> bool:
    """Return whether a path that does not exist may be ORG/NAME, a model of the Hub, which is found from any folder."""
    if setting not in _OF_HUB or Path(given).exists():
        return False
    model = hub_model(given)
    return model is not None and "/" in model.repo


def _elsewhere(run: Path) -> Path | None:
    """Return the folder that the run was started in; None if it is the current one or is not known."""
    try:
        start = (run.resolve() / os.fsdecode((run / _STARTED_IN).read_bytes())).resolve()
        return None if start.samefile(Path.cwd()) else start
    except OSError:
        return None


def _located_input(given: str, start: Path) -> str:
    if _ADDRESS in given:
        return given
    name, equals, path = given.partition("=")
    if (start / given).exists() or not equals:
        name, equals, path = "", "", given
    if Path(path).is_absolute():
        return given
    if (start / path).exists():
        return f"{name}{equals}{start / path}"
    pattern = f"{glob.escape(str(start))}/{path}"
    is_met = glob.has_magic(path) and any(glob.iglob(pattern, recursive=True))  # noqa: PTH207
    return f"{name}{equals}{pattern}" if is_met else given
