"""Checkpoint folders as they are read: which folder is one, which a run has, and whether one is whole.

`manifest.json` of a checkpoint holds the format, the step, bytes and sha256 of every file, and a digest of itself. With
the digest, a flipped bit in the manifest is damage and not another format. `train.checkpoint.checkpoints` writes the
folders. Cost of a check: every file that it covers is read once.

Who reads a model does not read the optimizer's state, two thirds of the bytes. So it is checked only for a run that is
resumed: with `model_only`, damage to it is no damage.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from unmask.errors import CheckpointError

__all__ = [
    "FORMAT",
    "MANIFEST",
    "damage_of",
    "folder_of_step",
    "is_checkpoint",
    "newest_whole",
    "steps_in",
    "verify_checkpoint",
    "write_manifest",
]

FORMAT = 1
READS = (1,)
MANIFEST = "manifest.json"
# the state of the training, and what it says about the model: steps, phase, versions
_TRAINING, _FACTS = "training/", "training/state.json"


def folder_of_step(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint of `step` in the folder `checkpoints`; it may not exist."""
    return checkpoints / f"step-{step:06d}"


def steps_in(checkpoints: Path) -> list[int]:
    """Return the steps that have a folder in the folder `checkpoints`, ascending, whole or damaged."""
    names = {p.name for p in checkpoints.glob("step-*") if p.is_dir()}
    steps = [int(number) for number in (name.removeprefix("step-") for name in names) if number.isdecimal()]
    # Step 7 is written as `step-000007`, so a folder `step-7` is not ours.
    return sorted(step for step in steps if folder_of_step(checkpoints, step).name in names)


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


def verify_checkpoint(path: Path, *, model_only: bool = False) -> dict[str, Any]:
    """Check the files of a checkpoint against its manifest and return the manifest.

    Args:
        path: the checkpoint.
        model_only: whether the optimizer's state is left out.
    Raises:
        CheckpointError: a file is missing, short or altered, or this version does not read the format.
    """
    try:
        return _checked(path, model_only=model_only)
    except _Damaged as damage:
        raise CheckpointError(f"{damage}; copy it again, or take another checkpoint of the run") from damage


def damage_of(path: Path, *, model_only: bool = False) -> str | None:
    """Return how a checkpoint differs from its manifest; None if it is whole.

    Args:
        path: the checkpoint.
        model_only: whether the optimizer's state is left out.
    Raises:
        CheckpointError: this version does not read the format.
    """
    try:
        _checked(path, model_only=model_only)
    except _Damaged as damage:
        return str(damage)
    return None


def newest_whole(checkpoints: Path, *, model_only: bool = False) -> tuple[Path | None, list[tuple[Path, str]]]:
    """Return the newest whole checkpoint in a folder, None without one, and those that are newer with their damage.

    Args:
        checkpoints: the folder.
        model_only: whether a checkpoint counts as whole without its optimizer's state.
    Raises:
        CheckpointError: this version does not read the format of a checkpoint that it comes to.
    """
    damaged: list[tuple[Path, str]] = []
    for step in reversed(steps_in(checkpoints)):
        path = folder_of_step(checkpoints, step)
        damage = damage_of(path, model_only=model_only)
        if damage is None:
            return path, damaged
        damaged.append((path, damage))
    return None, damaged


def _checked(path: Path, *, model_only: bool) -> dict[str, Any]:
    """Check the files of a checkpoint against its manifest and return the manifest.

    Raises:
        _Damaged: a file is missing, short or altered.
        CheckpointError: this version does not read the format.
    """
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
        if model_only and name.startswith(_TRAINING) and name != _FACTS:
            continue
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


def write_manifest(folder: Path, step: int) -> None:
    """Write the manifest of a checkpoint whose other files are all there."""
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
