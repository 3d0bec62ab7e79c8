"""Checkpoint folders that are either whole or absent.

A save writes to a hidden temporary folder, hashes every file into `manifest.json`, flushes files and folders to the
disk, and renames the folder to, for example, `step-000200`. If the process is killed at any instant, the older
checkpoints stay as they were. A resumed run verifies all hashes and uses the newest checkpoint that is whole; it logs
the damaged ones that it passes over.

The manifest holds the format, the step, bytes and sha256 of every file, and a digest of itself. With the digest, a
flipped bit in the manifest is damage and not another format. Cost: the checkpoint is read once after it was written.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import CheckpointError
from unmask.paths import as_typed, sync

__all__ = ["FORMAT", "Checkpoints", "damage_of", "is_checkpoint", "verify"]

_log = logging.getLogger(__name__)

FORMAT = 1
READS = (1,)
MANIFEST = "manifest.json"


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
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Return the steps that have a folder, ascending, whole or damaged."""
        names = {p.name for p in self.folder.glob("step-*") if p.is_dir()}
        steps = [int(number) for number in (name.removeprefix("step-") for name in names) if number.isdecimal()]
        # `path` writes step 7 as `step-000007`, so a folder `step-7` is not ours.
        return sorted(step for step in steps if self.path(step).name in names)

    def save(self, step: int, write: Callable[[Path], None], *, bytes_needed: int) -> Path:
        """Write a checkpoint and remove the oldest ones beyond `keep`.

        Args:
            step: updates done.
            write: writes the files of the checkpoint into the folder that it is given.
            bytes_needed: estimated size; a disk with less room is refused before anything is written.
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
            _write_manifest(partial, step)
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
        for old in self.steps()[: -self.keep]:
            self._remove(self.path(old))
        return target

    def latest_valid(self) -> Path | None:
        """Return the newest checkpoint whose hashes agree, or None if there is no checkpoint.

        Damaged folders are logged and renamed to `step-<number>.damaged`.

        Raises:
            CheckpointError: checkpoints exist and none is whole, or the newest whole one has an unknown format.
        """
        found = self.steps()
        problems: list[str] = []
        for step in reversed(found):
            path = self.path(step)
            try:
                _checked(path)
            except _Damaged as damage:
                problems.append(str(damage))
                _log.warning(f"{damage}; falling back to the one before it")
                continue
            for bad in (self.path(s) for s in found if s > step):
                aside = bad.with_name(f"{bad.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                bad.rename(aside)
            return path
        if problems:
            raise CheckpointError(f"no checkpoint in {self.folder} is whole: {'; '.join(problems)}; start a new run")
        return None

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
        rest = f"{kept[-1]} is whole, so make room" if kept else "make room"
        return (
            f"checkpoint {target} could not be written ({reason}): it needs about {needed:,} bytes, {free:,} are "
            f"free; {rest} and continue with `unmask pretrain --resume {as_typed(self.folder.parent)}`"
        )


class _Damaged(CheckpointError):
    """The contents of a checkpoint differ from its manifest."""


def is_checkpoint(path: Path) -> bool:
    """Return whether a folder is one of our checkpoints, whole or damaged. Other programs write manifest.json too."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError):
        return True
    ours = {"digest", "files", "format", "step"}
    return not isinstance(manifest, dict) or len(ours & manifest.keys()) > 1 or (path / "training").is_dir()


def verify(path: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest and return the manifest.

    Raises:
        CheckpointError: a file is missing, short or altered, or this version does not read the format.
    """
    try:
        return _checked(path)
    except _Damaged as damage:
        raise CheckpointError(f"{damage}; copy it again, or take another checkpoint of the run") from damage


def damage_of(path: Path) -> str | None:
    """Return why a checkpoint cannot be used, or None if it can."""
    try:
        _checked(path)
    except CheckpointError as error:
        return str(error)
    return None


def _checked(path: Path) -> dict[str, Any]:
    try:
        text = (path / MANIFEST).read_bytes()
        manifest: dict[str, Any] = json.loads(text)
        intact = manifest["digest"] == _digest(manifest) and text == _encode(manifest)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Damaged(f"checkpoint {path} has no readable {MANIFEST} ({type(error).__name__})") from error
    if not intact:
        raise _Damaged(f"checkpoint {path}: {MANIFEST} was altered")
    written = manifest.get("format")
    if written not in READS:
        reads = " and ".join(str(known) for known in READS)
        raise CheckpointError(
            f"checkpoint {path} was written by format {written}; this version reads {reads} - upgrade unmask"
        )
    if not _well_formed(manifest):
        raise _Damaged(f"checkpoint {path}: {MANIFEST} does not name the step and the bytes and sha256 of its files")
    for name, entry in manifest["files"].items():
        file = path / name
        try:
            size = file.stat().st_size
            if size != entry["bytes"]:
                raise _Damaged(f"checkpoint {path}: {name} has {size:,} bytes, {entry['bytes']:,} were written")
            if _sha256(file) != entry["sha256"]:
                raise _Damaged(f"checkpoint {path}: {name} was altered since it was written (sha256 differs)")
        except OSError as error:
            raise _Damaged(f"checkpoint {path}: {name} cannot be read ({error.strerror})") from error
    return manifest


def _write_manifest(folder: Path, step: int) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    entries = {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files}
    manifest: dict[str, Any] = {"format": FORMAT, "step": step, "files": entries}
    manifest["digest"] = _digest(manifest)
    (folder / MANIFEST).write_bytes(_encode(manifest))


def _well_formed(manifest: dict[str, Any]) -> bool:
    """Return whether a manifest has all fields of this format, and no file name that leads out of the checkpoint."""
    step, files = manifest.get("step"), manifest.get("files")
    return (
        type(step) is int
        and step >= 0
        and isinstance(files, dict)
        and all(isinstance(entry, dict) and type(entry.get("bytes")) is int for entry in files.values())
        and all(isinstance(entry.get("sha256"), str) for entry in files.values())
        and not any(Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name for name in files)
    )


def _encode(manifest: dict[str, Any]) -> bytes:
    """Return the text of a manifest. There is one text for each manifest, so any other text is damage."""
    return (json.dumps(manifest, indent=1) + "\n").encode()


def _digest(manifest: dict[str, Any]) -> str:
    """Return the sha256 of everything in the manifest but the digest. The rule is the same in every format."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
