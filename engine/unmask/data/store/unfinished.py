"""A token store while it is made: a folder under another name, a lock, and a journal of what is finished.

    store.partial/             becomes `store`, by renaming, when it is whole
        lock                   held by the process that writes
        unfinished.json        written after each shard: the settings, the shards, their sources, where to go on
        shard-00000.arrow ...  finished shards, and perhaps a part of one more
        tokenizer/
    index/                 made last (`index.py`)

If `prepare` is killed, the folder stays. The same settings go on after the last finished shard and give the same bytes;
other settings are refused by name. An error before the first shard is finished removes the folder. Journal and shards
are on the disk before anything relies on them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypedDict

from unmask.data.store.index import INDEX, build_index
from unmask.data.store.manifest import Manifest, ShardEntry, SourceEntry
from unmask.errors import StoreError
from unmask.folders import MANIFEST
from unmask.paths import printable, replace_text, sync, way_to_room

__all__ = ["Journal", "UnfinishedStore", "partial_folder", "unfinished_hint"]

_JOURNAL = "unfinished.json"
_LOCK = "lock"
_OURS = re.compile(
    rf"{_LOCK}|tokenizer|{INDEX}|\.?({re.escape(_JOURNAL)}|{re.escape(MANIFEST)})(\.partial)?|shard-\d+\.arrow|\.nfs.*"
)


class Journal(TypedDict):
    """The contents of `unfinished.json`; `state` holds what the writer needs to go on after these shards."""

    settings: dict[str, Any]
    shards: list[ShardEntry]
    sources: list[SourceEntry]
    state: dict[str, Any]


def partial_folder(folder: Path) -> Path:
    """Return the folder in which the store `folder` is made."""
    return folder.with_name(f"{folder.name}.partial")


def unfinished_hint(folder: Path) -> str | None:
    """Return the message about an unfinished store that a writer of `folder` left, or None if there is none."""
    partial = partial_folder(folder)
    if not (partial / _JOURNAL).is_file():
        return None
    return (
        f"{partial} is an unfinished store; run the same command on the same text to go on with it, or remove it to "
        "start afresh"
    )


class UnfinishedStore:
    """A context with the folder of a store while it is made; `publish` gives it its name.

    Args:
        folder: the store to make; it must not exist.
        settings: all that decides the contents of the store, for JSON. None makes a store that cannot be continued.

    Attributes:
        path: the folder to write to.
        journal: the journal of the run that is continued; None if there is nothing to continue.

    Raises:
        StoreError: the store exists; another process writes it; what was begun has other settings or is damaged; or the
            folder cannot be written.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.path = partial_folder(self.folder)
        self.journal: Journal | None = None
        self._settings = None if settings is None else json.loads(json.dumps(settings))
        self._lock: IO[str] | None = None
        self._kept = False

    def __enter__(self) -> UnfinishedStore:
        self._refuse_existing()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            self._lock = (self.path / _LOCK).open("a+")
            self._take_lock(self._lock)
            self._refuse_existing()
            self.journal = self._read_journal()
            self._kept = self.journal is not None
            finished = {shard["file"] for shard in self.journal["shards"]} if self.journal else set()
            for left in self.path.iterdir():
                if left.name not in (_LOCK, _JOURNAL, "tokenizer", *finished) or (left.is_dir() and not self._kept):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
        except BaseException as error:
            self._leave()
            if isinstance(error, OSError):
                raise self._failed(error) from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if isinstance(error, OSError):
            raise self._failed(error) from error

    def _leave(self) -> None:
        # an interruption may come after the journal is written and before `_kept` is set
        if not self._kept and not (self.path / _JOURNAL).is_file():
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def record(self, shards: list[ShardEntry], sources: list[SourceEntry], state: Mapping[str, Any]) -> None:
        """Write to the journal that these shards are finished, and where to go on."""
        if self._settings is None:
            return
        journal = Journal(settings=self._settings, shards=shards, sources=sources, state=dict(state))
        self._write(_JOURNAL, journal)
        self._kept = True

    def publish(self, manifest: Manifest) -> None:
        """Write the index and the manifest, and rename the folder to the store.

        Raises:
            StoreError: the store would be empty, or another one of this name has appeared.
            OSError: the disk refuses.
        """
        if not manifest["shards"]:
            raise StoreError(f"store: {self.folder} would be empty; give at least one document with text")
        build_index(self.path, manifest, self.path)
        self._write(MANIFEST, manifest)
        if self.folder.exists():
            raise StoreError(
                f"store: {self.folder} appeared while it was being written, nothing was replaced; run the same command "
                "with another folder, or remove that one first"
            )
        for name in (_JOURNAL, _LOCK):
            (self.path / name).unlink(missing_ok=True)
        self.path.rename(self.folder)
        sync(self.folder.parent)

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # half a surrogate pair in an option becomes its JSON escape
        replace_text(self.path / name, text.encode("utf-8", "backslashreplace").decode("utf-8"))

    def _refuse_existing(self) -> None:
        if self.folder.exists():
            raise StoreError(f"store: {self.folder} exists already; choose another folder or remove it first")

    def _refuse_foreign(self) -> None:
        """Refuse a folder with files that no store has: they are not removed."""
        foreign = sorted(entry.name for entry in self.path.iterdir() if not _OURS.fullmatch(entry.name))
        if foreign:
            self._kept = True
            raise StoreError(
                f"store: {self.folder} is made in {self.path}, but {printable(foreign[0])} lies there, no part of a "
                "store; move that away or choose another folder"
            )

    def _take_lock(self, lock: IO[str]) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            writer = lock.read().strip() or "unknown"
            # the folder belongs to the other process and is not removed
            self._kept = True
            raise StoreError(
                f"store: {self.folder} is being written by process {writer}; wait for it or choose another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()

    def _read_journal(self) -> Journal | None:
        path = self.path / _JOURNAL
        if not path.exists():
            return None
        try:
            journal: Journal = json.loads(path.read_text(encoding="utf-8"))
            settings, shards = journal["settings"], journal["shards"]
            whole = all((self.path / shard["file"]).stat().st_size == shard["bytes"] for shard in shards)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            whole = False
        self._kept = True
        if not whole:
            raise StoreError(f"store: {self.path} is damaged and cannot be continued; remove it to start afresh")
        asked = self._settings or {}
        differing = sorted(name for name in settings.keys() | asked.keys() if settings.get(name) != asked.get(name))
        if differing:
            changed = " (or a file of it has changed since)" if "input" in differing else ""
            raise StoreError(
                f"store: {self.path} was begun with another {', '.join(differing)}{changed}; run the command that "
                "began it, on the same text, to finish it, or remove it to start afresh"
            )
        return journal

    def _failed(self, error: OSError) -> StoreError:
        reason = error.strerror or str(error)
        hint = unfinished_hint(self.folder)
        if hint is None:
            way = f"{way_to_room(reason, 'make room or choose another folder')}, nothing of it was kept"
        else:
            way = f"{way_to_room(reason)}; {hint}"
        return StoreError(f"store: {self.folder} cannot be written ({reason}); {way}")
