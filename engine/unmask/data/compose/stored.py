"""Sequence tables kept in files, so that each block is composed once for all workers, ranks and restarts.

    <folder>/<identity>-<epoch>-<block>.npz       written under another name, then renamed
    <folder>/<identity>-<epoch>-<block>.lock      held by the process that composes it; others wait, then read

The lock is the kernel's and goes with its process, so a killed one leaves nothing behind that could block. Files are
about 32 bytes a piece.
"""

import contextlib
import os
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from unmask.data.compose.table import SequenceTable

__all__ = ["StoredTables"]


class StoredTables:
    """The tables of one stream, in a folder that other streams may share.

    Args:
        folder: made when the first table is written.
        identity: names what the tables depend on besides epoch and block.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def get(self, epoch: int, block: int, make: Callable[[], SequenceTable]) -> SequenceTable:
        """Read the table of a block, made and written first if nobody did; without a writable folder, made."""
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
            table = make()
            try:
                _write(path, table)
            except OSError as error:
                warnings.warn(f"compose: sequences cannot be kept in {self._folder}: {error}", stacklevel=2)
            return table

    def forget(self, epoch: int, block: int) -> None:
        """Remove the table of a block that lies behind."""
        for suffix in (".npz", ".lock"):
            with contextlib.suppress(FileNotFoundError):
                self._path(epoch, block).with_suffix(suffix).unlink()

    def _path(self, epoch: int, block: int) -> Path:
        return self._folder / f"{self._identity}-{epoch}-{block}.npz"


def _write(path: Path, table: SequenceTable) -> None:
    columns = {field.name: getattr(table, field.name) for field in fields(table)}
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **{name: column for name, column in columns.items() if column is not None})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> SequenceTable:
    with np.load(path) as columns:
        return SequenceTable(**dict(columns))
