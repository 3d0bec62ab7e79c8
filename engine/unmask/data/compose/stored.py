"""Sequences kept in files, so that each block is composed once for all workers, ranks and restarts.

    <folder>/<identity>-<epoch>-<block>.npz       written under another name, then renamed
    <folder>/<identity>-<epoch>-<block>.lock      held by the process that composes the block; others wait, then read

The kernel releases the lock when the process ends, so a killed process blocks nobody. A piece takes about 32 bytes of
a file.
"""

import contextlib
import os
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from unmask.data.compose.sequences import Sequences

__all__ = ["StoredSequences"]


class StoredSequences:
    """The sequences of one stream, in a folder that other streams may share.

    Args:
        folder: made when the first file is written.
        identity: hash of everything that the sequences depend on besides epoch and block.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def get(self, epoch: int, block: int, make: Callable[[], Sequences]) -> Sequences:
        """Read the sequences of a block; make and write them first if no process did.

        If the folder cannot be written, the sequences are made, and a warning says so.
        """
        path = self._path(epoch, block)
        if path.exists():
            return _read(path)
        import fcntl

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = path.with_suffix(".lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            warnings.warn(f"compose: sequences cannot be kept in {self._folder}: {error}", stacklevel=2)
            return make()
        with lock:
            if path.exists():
                return _read(path)
            sequences = make()
            try:
                _write(path, sequences)
            except OSError as error:
                warnings.warn(f"compose: sequences cannot be kept in {self._folder}: {error}", stacklevel=2)
            return sequences

    def forget(self, epoch: int, block: int) -> None:
        """Remove the files of a block that is no longer needed."""
        for suffix in (".npz", ".lock"):
            with contextlib.suppress(FileNotFoundError):
                self._path(epoch, block).with_suffix(suffix).unlink()

    def _path(self, epoch: int, block: int) -> Path:
        return self._folder / f"{self._identity}-{epoch}-{block}.npz"


def _write(path: Path, sequences: Sequences) -> None:
    columns = {field.name: getattr(sequences, field.name) for field in fields(sequences)}
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **{name: column for name, column in columns.items() if column is not None})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> Sequences:
    with np.load(path) as columns:
        return Sequences(**dict(columns))
