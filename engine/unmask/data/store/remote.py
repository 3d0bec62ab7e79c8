"""Stores on other machines: `s3://bucket/store`, `gs://...`, `hf://datasets/owner/name/store`, any path of fsspec.

    <cache>/stores/<fingerprint>/       the same names as in the store; a folder that is a store when all is there
        manifest.json, tokenizer/, index/       fetched when the store is opened
        shard-00000.arrow ...                   fetched when a document of the shard is first asked for
        .shard-00000.arrow.lock                 held by the process that fetches the shard; the others wait, then read

The manifest is read at each opening, and its fingerprint names the folder: a store that changed gets a folder of its
own, and a run that resumes finds another fingerprint and refuses. Each file is compared with its SHA-256 before it gets
its name. All processes of a machine, and all stores, share the cache. If it has a limit, the shards that were used
least recently are removed first; a process that has one mapped goes on reading it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.config.settings import counted
from unmask.data.store.index import ARRAYS, FACTS, INDEX, IndexFacts, facts_of
from unmask.data.store.manifest import Manifest, ShardEntry, fingerprint, parse_manifest
from unmask.data.text.docstrings import cache_folder
from unmask.data.text.fetching import StalledError, fetch
from unmask.data.text.remote import shown
from unmask.errors import StoreError
from unmask.folders import MANIFEST
from unmask.paths import replace_text, way_to_room

__all__ = ["TOKENIZER", "RemoteStore", "StoreCache"]

TOKENIZER = "tokenizer"
"""The folder of the tokenizer in a store."""

_log = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_TOGETHER = 4
_TOLD_SECONDS = 10.0
_GB = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreCache:
    """Where stores of other machines are kept, and how long to wait for them.

    Attributes:
        folder: the folder. Default: `~/.cache/unmask`, or where XDG_CACHE_HOME says.
        limit_gb: most gigabytes (10^9 bytes) of shards in it. None: as many as the store has.
        patience: seconds without a byte after which a file is given up.
    """

    folder: str | Path | None = None
    limit_gb: float | None = None
    patience: float = 60.0

    @property
    def root(self) -> Path:
        """The folder of all stores.

        Raises:
            StoreError: none was given, and this user has no cache folder.
        """
        folder = cache_folder() if self.folder is None else Path(self.folder)
        if folder is None:
            raise StoreError(
                "store: this user has no home for a cache of remote stores; give a folder as data.cache_folder"
            )
        return folder / "stores"


class RemoteStore:
    """A store at an address, and the folder of the cache that has what was fetched of it.

    Attributes:
        address: the address, which may hold keys; `name` shows it without them.
        name: the address for messages.
        manifest: the manifest of the store.
        folder: the folder in the cache.
        most_mapped: shards that a process may have mapped, so that removed ones give their room back.

    Raises:
        StoreError: there is no store at the address, it cannot be read, or the cache has no room for it.
    """

    def __init__(self, address: str, cache: StoreCache) -> None:
        self.address, self.cache, self.name = address, cache, shown(address)
        self._process, self._told = os.getpid(), time.monotonic()
        root = cache.root
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.manifest = self._read_manifest(root)
            self.folder = root / fingerprint(self.manifest)[:16]
            self.folder.mkdir(exist_ok=True)
            self._require_room()
            self._fetch_head()
        except OSError as error:
            way = way_to_room(error.strerror, "make room in it, or give another folder as data.cache_folder")
            raise StoreError(f"store: the cache {root} cannot be written ({error.strerror or error}); {way}") from None
        largest = max(shard["bytes"] for shard in self.manifest["shards"])
        self.most_mapped = len(self.manifest["shards"]) if self._limit is None else max(1, int(self._limit // largest))

    @property
    def _limit(self) -> float | None:
        return None if self.cache.limit_gb is None else self.cache.limit_gb * _GB

    def require(self, shards: Iterable[ShardEntry]) -> None:
        """Fetch the shards that are not in the cache, several at a time.

        Raises:
            StoreError: one of them is missing, stalls, or is not the one of the manifest.
        """
        missing = [shard for shard in shards if not self._is_here(shard)]
        if len(missing) == 1:
            self._fetch_shard(missing[0])
        elif missing:
            with ThreadPoolExecutor(min(_TOGETHER, len(missing))) as pool:
                for done, _ in enumerate(pool.map(self._fetch_shard, missing), start=1):
                    self._tell(done, missing)

    def _tell(self, done: int, missing: Sequence[ShardEntry]) -> None:
        """Log now and then how far the fetching of many shards is; a forked worker logs nothing."""
        now = time.monotonic()
        if now - self._told >= _TOLD_SECONDS and os.getpid() == self._process:
            self._told = now
            here, whole = (sum(shard["bytes"] for shard in some) for some in (missing[:done], missing))
            _log.info(
                f"store: fetched {done:,} of {len(missing):,} shards of {self.name}, {_gb(here)} of {_gb(whole)} GB"
            )

    def verify(self) -> None:
        """Compare the shards in the cache with their SHA-256, and remove others, which are then fetched again."""
        for shard in self.manifest["shards"]:
            path = self.folder / shard["file"]
            if path.exists():
                with path.open("rb") as file:
                    whole = hashlib.file_digest(file, "sha256").hexdigest() == shard["sha256"]
                if not whole:
                    path.unlink(missing_ok=True)

    def _is_here(self, shard: ShardEntry) -> bool:
        path = self.folder / shard["file"]
        try:
            if path.stat().st_size != shard["bytes"]:
                return False
            # the time of the last use
            os.utime(path)
        except OSError:
            return False
        return True

    def _read_manifest(self, root: Path) -> Manifest:
        with _scratch(root, MANIFEST) as copy:
            [error] = self._copy([(MANIFEST, copy)])
            if error is not None:
                raise StoreError(
                    f"store: {self.name} is no token store (it has no {MANIFEST}); give the address of a store, or "
                    "make one here with unmask prepare --out store and copy it there"
                )
            try:
                text = copy.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                # what is damaged is told as such
                text = ""
        return parse_manifest(text, self.name)

    def _fetch_head(self) -> None:
        """Fetch what the store is opened with: manifest, tokenizer and index; without an index, all shards."""
        with _locked(self.folder / MANIFEST):
            if not (self.folder / MANIFEST).exists():
                text = json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n"
                replace_text(self.folder / MANIFEST, text)
            parts = {TOKENIZER: _TOKENIZER_FILES, INDEX: (FACTS, *(f"{name}.npy" for name in ARRAYS))}
            self._fetch_folders({part: names for part, names in parts.items() if not (self.folder / part).exists()})
        if not (self.folder / INDEX).exists():
            _log.info(f"store: {self.name} is of an early version without an index, so all of its shards come first")
            self.require(self.manifest["shards"])

    def _fetch_folders(self, parts: Mapping[str, Sequence[str]]) -> None:
        """Fetch folders of the store; one that is not there, or an index of another store, is left out."""
        made = {part: self.folder / f".{part}.{os.getpid()}.partial" for part in parts}
        files = [(f"{part}/{name}", made[part] / name) for part, names in parts.items() for name in names]
        try:
            for folder in made.values():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
            errors = self._copy(files) if files else []
            facts: IndexFacts | None = None
            for (name, copy), error in zip(files, errors, strict=True):
                if copy.name == FACTS:
                    facts = None if error is not None else self._facts(copy.parent)
                    if facts is None:
                        shutil.rmtree(copy.parent)
                elif copy.suffix == ".npy" and facts is not None:
                    if error is not None:
                        raise _missing(f"{self.name}/{name}")
                    self._verify(name, copy, facts["files"][copy.name])
            for part, folder in made.items():
                if folder.exists() and any(folder.iterdir()):
                    folder.rename(self.folder / part)
        finally:
            for folder in made.values():
                shutil.rmtree(folder, ignore_errors=True)

    def _facts(self, index: Path) -> IndexFacts | None:
        with contextlib.suppress(ValueError):
            return facts_of(index, self.manifest)
        return None

    def _fetch_shard(self, shard: ShardEntry) -> None:
        path = self.folder / shard["file"]
        with _locked(path) as alone:
            # another process may have fetched it meanwhile
            if self._is_here(shard):
                return
            for left in self.folder.glob(f".{shard['file']}.*.partial") if alone else ():
                # of a process that was killed
                left.unlink(missing_ok=True)
            self._make_room(shard)
            with _scratch(self.folder, shard["file"]) as copy:
                [error] = self._copy([(shard["file"], copy)])
                if error is not None:
                    raise _missing(f"{self.name}/{shard['file']}")
                self._verify(shard["file"], copy, shard)
                copy.replace(path)

    def _verify(self, name: str, copy: Path, entry: Any) -> None:
        with copy.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry["sha256"]:
            raise StoreError(
                f"store: {self.name}/{name} is not what the manifest says: {copy.stat().st_size:,} bytes whose SHA-256 "
                f"begins {digest[:12]}, not {entry['bytes']:,} with {entry['sha256'][:12]}; copy the file there "
                "again, or open the store again if it was made anew"
            )

    def _copy(self, files: Sequence[tuple[str, Path]]) -> list[FileNotFoundError | None]:
        """Fetch files of the store, by name; return for each None, or that it is not there.

        Raises:
            StoreError: one stalls or cannot be read.
        """
        base, mark, options = self.address.partition("?")
        addresses = [(f"{base.rstrip('/')}/{name}{mark}{options}", target) for name, target in files]
        way = "or copy the store to this machine and give its folder"
        try:
            errors = fetch(addresses, patience=self.cache.patience)
        except StalledError as stalled:
            raise StoreError(
                f"store: {self.name}/{files[stalled.number][0]} stalls: {stalled}; try again, raise "
                f"data.cache_patience ({self.cache.patience:g}), {way}"
            ) from None
        found: list[FileNotFoundError | None] = []
        for (name, _), error in zip(files, errors, strict=True):
            if error is not None and os.strerror(errno.ENOSPC) in str(error):
                raise StoreError(
                    f"store: {self.folder} has no room for {name} of {self.name}; make room, give a folder of a larger "
                    "disk as data.cache_folder, or a limit as data.cache_gb"
                )
            if error is not None and not isinstance(error, FileNotFoundError):
                raise StoreError(
                    f"store: {self.name}/{name} cannot be read ({error}); check the address, the network and your "
                    f"rights, {way}"
                )
            found.append(error)
        return found

    def _require_room(self) -> None:
        """Refuse a cache that cannot hold the store or, with a limit, its largest shard; warn of one that is small."""
        shards = self.manifest["shards"]
        whole, largest = sum(shard["bytes"] for shard in shards), max(shard["bytes"] for shard in shards)
        if self._limit is None:
            missing = sum(shard["bytes"] for shard in shards if not self._is_here(shard))
            free = shutil.disk_usage(self.folder).free
            if missing > free:
                raise StoreError(
                    f"store: {self.name} needs {_gb(missing)} GB of disk for its shards, {self.folder} has "
                    f"{_gb(free)}; give a folder of a larger disk as data.cache_folder, or a limit as data.cache_gb"
                )
        elif largest > self._limit:
            raise StoreError(
                f"store: data.cache_gb is {self.cache.limit_gb:g}, but {self.name} has a shard of {_gb(largest)} GB; "
                f"give at least {_gb(largest)}"
            )
        elif whole > self._limit:
            _log.warning(
                f"store: data.cache_gb is {self.cache.limit_gb:g}, but {self.name} has {_gb(whole)} GB in "
                f"{counted(len(shards), 'shard')}, and a run reads its documents in random order, so it fetches shards "
                f"again and again; give {_gb(whole)} to fetch each once"
            )

    def _make_room(self, shard: ShardEntry) -> None:
        """Remove shards of any store from the cache, the least recently used first, until this one fits."""
        if self._limit is None:
            return
        root = self.folder.parent
        with _locked(root / "room"):
            found = []
            for path in root.glob("*/shard-*.arrow"):
                with contextlib.suppress(OSError):
                    found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            # what other processes fetch at this moment counts too
            coming = 0
            for path in root.glob("*/.shard-*.partial"):
                with contextlib.suppress(OSError):
                    coming += path.stat().st_size
            used = coming + sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if used + shard["bytes"] <= self._limit:
                    break
                path.unlink(missing_ok=True)
                used -= size


def _missing(name: str) -> StoreError:
    return StoreError(
        f"store: {name} is missing, but the store names it; copy it there again, or copy the store to this machine and "
        "give its folder"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, which the kernel releases however the process ends; give whether there are locks."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            # some network file systems have none; then a file may be fetched twice
            yield False
            return
        yield True


@contextlib.contextmanager
def _scratch(folder: Path, name: str) -> Iterator[Path]:
    """Give a name for a file that is not whole yet, and remove what is left of it."""
    path = folder / f".{name}.{os.getpid()}-{threading.get_ident()}.partial"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _gb(size: float) -> str:
    return f"{size / _GB:,.3g}"
