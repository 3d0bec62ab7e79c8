"""Checkpoint folders that are either whole or absent.

A save writes to a hidden temporary folder, hashes every file into `manifest.json`, flushes files and folders to the
disk, and renames the folder to, for example, `step-000200`. If the process is killed at any instant, the older
checkpoints stay as they were. A resumed run verifies all hashes and uses the newest checkpoint that is whole; it logs
the damaged ones that it passes over.

Manifest and hashes are those of `interop.checkpoint_folder`, which reads checkpoints too. Cost: the checkpoint is read
once after it was written.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.errors import CheckpointError
from unmask.interop.checkpoint_folder import damage_of, folder_of_step, newest_whole, steps_in, write_manifest
from unmask.paths import sync, way_to_room
from unmask.train.run_folder import resume_command

__all__ = ["Checkpoints"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: folder of the `step-<number>` folders; made by the first save.
        keep: number of newest checkpoints to keep, >= 1.
    """

    folder: Path
    keep: int = 2

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of `step`, which may not exist."""
        return folder_of_step(self.folder, step)

    def steps(self) -> list[int]:
        """Return the steps that have a folder, ascending, whole or damaged."""
        return steps_in(self.folder)

    def save(self, step: int, write: Callable[[Path], None], *, bytes_needed: int, beside: int | None = None) -> Path:
        """Write a checkpoint and remove the oldest ones beyond `keep`.

        Args:
            step: updates done.
            write: writes the files of the checkpoint into the folder that it is given.
            bytes_needed: estimated size; a disk with less room is refused before anything is written.
            beside: step of a checkpoint that stays too, however old it is.
        Returns:
            The checkpoint's folder.
        Raises:
            CheckpointError: the disk has no room or cannot be written. The older checkpoints stay.
        """
        target = self.path(step)
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < bytes_needed:
            raise CheckpointError(self._no_room(target, bytes_needed, "the disk is too full"))
        partial = self.folder / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            write(partial)
            write_manifest(partial, step)
            _sync_tree(partial)
        except BaseException as error:
            reason = _storage_failure(error)
            shutil.rmtree(partial, ignore_errors=True)
            if reason is None:
                raise
            raise CheckpointError(self._no_room(target, bytes_needed, reason)) from error
        if target.exists():
            self._remove(target)
        partial.rename(target)
        sync(self.folder)
        for old in [step for step in self.steps() if step != beside][: -self.keep]:
            self._remove(self.path(old))
        return target

    def latest_valid(self) -> Path | None:
        """Return the newest checkpoint whose hashes agree, or None if there is no checkpoint.

        DamagedCheckpoint folders are logged and renamed to `step-<number>.damaged`.

        Raises:
            CheckpointError: checkpoints exist and none is whole, or the newest whole one has an unknown format.
        """
        path, damaged = newest_whole(self.folder)
        for _, damage in damaged:
            _log.warning(f"{damage}; falling back to the one before it")
        if path is None and damaged:
            problems = "; ".join(damage for _, damage in damaged)
            raise CheckpointError(f"no checkpoint in {self.folder} is whole: {problems}; start a new run")
        for bad, _ in damaged:
            aside = bad.with_name(f"{bad.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            bad.rename(aside)
        return path

    def remove(self, step: int) -> None:
        """Remove the checkpoint of `step`."""
        self._remove(self.path(step))

    def go_back(self, step: int) -> list[Path]:
        """Make the checkpoint of `step` the newest; rename later ones to `step-<number>.decayed`, which stay.

        Returns:
            The later ones under their new names; an empty list, and nothing is renamed, if that of `step` is not whole.
        """
        if step not in self.steps() or damage_of(self.path(step)) is not None:
            return []
        renamed = []
        for later in (one for one in reversed(self.steps()) if one > step):
            aside = self.path(later).with_name(f"{self.path(later).name}.decayed")
            shutil.rmtree(aside, ignore_errors=True)
            renamed.append(self.path(later).rename(aside))
        return renamed

    def clean(self) -> None:
        """Remove the leftovers of interrupted saves and removals."""
        for leftover in self._leftovers():
            _log.info(f"removed {leftover.name}, left by an interrupted save")
            shutil.rmtree(leftover, ignore_errors=True)

    def _leftovers(self) -> Iterator[Path]:
        for pattern in (".step-*.partial", ".step-*.removed"):
            yield from self.folder.glob(pattern)

    def _remove(self, path: Path) -> None:
        """Delete a checkpoint. The rename first makes sure that an interruption never leaves half a checkpoint."""
        doomed = self.folder / f".{path.name}.removed"
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _no_room(self, target: Path, needed: int, reason: str) -> str:
        free = shutil.disk_usage(self.folder).free
        kept = [f"step-{step:06d}" for step in self.steps()]
        way = way_to_room(reason)
        rest = f"{kept[-1]} is whole, so {way}" if kept else way
        return (
            f"checkpoint {target} could not be written ({reason}): it needs about {needed:,} bytes, {free:,} are "
            f"free; {rest} and continue with `{resume_command(self.folder.parent)}`"
        )


def _sync_tree(folder: Path) -> None:
    """Flush all files below `folder`, then the folders, innermost first."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(root) / name)
        sync(Path(root))


def _storage_failure(error: BaseException) -> str | None:
    """Return the file system's reason for a failed save; None for any other error.

    torch.distributed.checkpoint wraps an OSError of its writer in a BaseException.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    failures = getattr(error, "failures", None)
    if isinstance(failures, dict):
        reasons = [_storage_failure(wrapped[0]) for wrapped in failures.values()]
        return next((reason for reason in reasons if reason is not None), None)
    if isinstance(error, RuntimeError) and ("file write failed" in str(error) or "PytorchStreamWriter" in str(error)):
        return str(error).splitlines()[0]
    inner = error.__cause__ or error.__context__
    return _storage_failure(inner) if inner is not None else None
