"""The files of an input: listed once, before anything is written, and the same each time the text is read.

A folder is searched with all folders in it. Left out and named in a warning are the store that is being made; folders
of a known kind (`folders.py`: stores, runs, checkpoints, models, tokenizers, data sets); READMEs, licences and files
such as metadata.json, which are about the text; what is no regular file; and files with other suffixes. Hidden files
and folders are left out silently. A file that is an input by its own name is read whatever it is called.

A link is followed, and its target is read once: not if the target is also found under its own name or by another link,
and not if it is a folder around the link. A link with the suffix of a text that points nowhere is refused, since a text
is missing.

Files come in the sorted order of their paths, links under their own names. Of a remote folder (`remote.py`) only names
are known, so there such files, hidden ones and other suffixes are left out, and nothing else.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from unmask.data.text.conversions import READ, conversion
from unmask.data.text.decoding import errors_named
from unmask.data.text.readers import suffix_of
from unmask.data.text.remote import FilePath, RemotePath, is_remote, remote_path
from unmask.errors import CorpusError
from unmask.folders import Kind, is_vocabulary, kind_of

__all__ = ["CorpusFile", "Listing", "list_files", "real_path", "unchanged"]

_NAMED = 5
_SPECIAL = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# README.md, readme_en.txt, LICENSE-MIT.txt; config.json
_ABOUT = re.compile(
    r"(readme|licen[sc]e|copying)([^a-z].*)?"
    r"|(config|dataset_dict|dataset_infos?|info|manifest|metadata|package|schema|state)\.json",
    re.IGNORECASE,
)
# what a remote file system says of the version of a file, alike in its list of a folder and for the file alone
_VERSIONS = ("mtime", "ETag", "etag", "blob_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusFile:
    """A file to read.

    Attributes:
        path: where it was found.
        bytes: its size.
        modified: time of its last change in nanoseconds, or what a remote file system knows of its version.
        place: device and inode, the same for every name of the file; the address of a remote file.
    """

    path: FilePath
    bytes: int
    modified: object
    place: object


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The files of one input in their order, and what was left out: `a-model (a model), ...`, or an empty string."""

    files: list[CorpusFile]
    left_out: str


def list_files(location: str | Path, avoid: Collection[Path] = ()) -> Listing:
    """List the files of an input: a file as it is, a folder searched in depth, except for the real paths in `avoid`.

    Args:
        location: a path, or the address of a remote file or folder.
        avoid: real paths of folders that are not searched.

    Raises:
        CorpusError: it is unreadable, no regular file, has a suffix that is not read, is a folder of another kind, such
            as a model, or a folder without a file to read.
    """
    if is_remote(str(location)):
        return _remote_listing(remote_path(str(location)))
    path = Path(location)
    if path.is_dir():
        return _Search(path, avoid).listing()
    return Listing(files=[_named(path)], left_out="")


def real_path(path: Path) -> Path:
    """Return the path with all links resolved; unlike `Path.resolve` also if links point at one another."""
    return Path(os.path.realpath(path))


@contextmanager
def unchanged(file: CorpusFile) -> Iterator[None]:
    """Check before and after a file is read that it is still the file that was listed.

    Raises:
        CorpusError: its size or time has changed, so a second reading would find another text.
    """
    _require_same(file)
    yield
    # a request for each file would be slow
    if not isinstance(file.path, RemotePath):
        _require_same(file)


def _require_same(file: CorpusFile) -> None:
    if isinstance(file.path, RemotePath):
        now = _listed_remote(file.path, file.path.info())
    else:
        with errors_named(file.path):
            now = _as_listed(file.path, file.path.stat())
    if (now.bytes, now.modified) != (file.bytes, file.modified):
        raise CorpusError(
            f"corpus: {file.path} has changed since it was listed ({file.bytes:,} bytes then, {now.bytes:,} now); "
            "run the command again when nothing writes to it"
        )


def _named(path: Path) -> CorpusFile:
    with errors_named(path):
        found = path.stat()
    special = _special(found.st_mode)
    if special:
        raise CorpusError(
            f"corpus: {path} is {special}, and text is read more than once; write it to a file first, for example "
            "FILE.txt"
        )
    _require_suffix(path)
    return _listed(path, found)


def _require_suffix(path: FilePath) -> None:
    if suffix_of(path) is None:
        raise CorpusError(
            f"corpus: {path} has the suffix {path.suffix or '(none)'}; files read are {READ}; {conversion(path)}"
        )


def _listed(path: Path, found: os.stat_result) -> CorpusFile:
    if not os.access(path, os.R_OK):
        raise CorpusError(f"corpus: {path} cannot be read (Permission denied); make it readable, or move it away")
    return _as_listed(path, found)


def _as_listed(path: Path, found: os.stat_result) -> CorpusFile:
    place = (found.st_dev, found.st_ino)
    return CorpusFile(path=path, bytes=found.st_size, modified=found.st_mtime_ns, place=place)


def _remote_listing(path: RemotePath) -> Listing:
    info = path.info()
    if info["type"] != "directory":
        _require_suffix(path)
        return Listing(files=[_listed_remote(path, info)], left_out="")
    found: list[CorpusFile] = []
    left_out = _LeftOut()
    for file, known in sorted(path.files(), key=lambda pair: pair[0].key.split("/")):
        below = file.key.removeprefix(path.key)
        if any(part.startswith(".") for part in below.split("/")):
            left_out.hidden += 1
        elif suffix_of(file) is None:
            left_out.suffixes[file.suffix.lower() or "(none)"] += 1
        elif _ABOUT.fullmatch(file.name):
            left_out.note_about(file)
        else:
            found.append(_listed_remote(file, known))
    if not found:
        raise left_out.nothing_to_read(path)
    return Listing(files=found, left_out=left_out.text())


def _listed_remote(path: RemotePath, info: dict[str, object]) -> CorpusFile:
    version = str(next((info[name] for name in _VERSIONS if info.get(name) is not None), ""))
    size = info.get("size")
    return CorpusFile(path=path, bytes=size if isinstance(size, int) else 0, modified=version, place=path.uri)


def _special(mode: int) -> str:
    return next((name for is_one, name in _SPECIAL if is_one(mode)), "")


@dataclass(slots=True)
class _LeftOut:
    """What is left out of a folder."""

    named: list[tuple[str, str]] = field(default_factory=list)
    about: list[str] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)
    hidden: int = 0

    def note(self, path: FilePath, why: str) -> None:
        self.named.append((str(path), why))

    def note_about(self, path: FilePath) -> None:
        self.about.append(str(path))

    def text(self) -> str:
        parts = [f"{path} ({why})" for path, why in sorted(self.named)[:_NAMED]]
        if len(self.named) > _NAMED:
            parts.append(f"{len(self.named) - _NAMED:,} more like these")
        if self.about:
            names = ", ".join(sorted(self.about)[:_NAMED])
            more = f" and {len(self.about) - _NAMED:,} more" if len(self.about) > _NAMED else ""
            parts.append(f"{names}{more} (about the text, by the name; give such a file as an input to read it)")
        if self.suffixes:
            counted = ", ".join(f"{suffix} {count:,}" for suffix, count in self.suffixes.most_common(_NAMED))
            more = ", ..." if len(self.suffixes) > _NAMED else ""
            parts.append(f"files with other suffixes ({counted}{more})")
        return ", ".join(parts)

    def nothing_to_read(self, folder: FilePath) -> CorpusError:
        left_out = self.text()
        rest = f"; left out {left_out}" if left_out else ""
        for suffix, _ in self.suffixes.most_common(1):
            rest += f"; {suffix} files: {conversion('FILE' + suffix.replace('(none)', ''))}"
        if self.hidden:
            rest += f"; {self.hidden:,} with names that begin with a dot are passed over, rename those that are text"
        return CorpusError(f"corpus: {folder} holds no file to read; files read are {READ}{rest}")


@dataclass(slots=True)
class _Search:
    """The search of one folder: real folders first, then links, since a link may point at a folder that is found."""

    root: Path
    avoid: Collection[Path]
    files: list[CorpusFile] = field(default_factory=list)
    left_out: _LeftOut = field(default_factory=_LeftOut)
    folders: set[Path] = field(default_factory=set)
    folder_links: list[Path] = field(default_factory=list)
    file_links: list[Path] = field(default_factory=list)

    def listing(self) -> Listing:
        kind = kind_of(self.root)
        if kind is not None:
            raise _refused(self.root, kind)
        real = real_path(self.root)
        if self._avoided(real):
            raise CorpusError(
                f"corpus: {self.root} is where the store is made; give the text as input and another folder as "
                "the store"
            )
        with errors_named(self.root):
            self._search(self.root, real)
            # the list grows if a link leads to a folder with links
            for link in self.folder_links:
                self._follow_folder(link)
            self._follow_files()
        if not self.files:
            raise self.left_out.nothing_to_read(self.root)
        self.files.sort(key=lambda file: Path(file.path))
        return Listing(files=self.files, left_out=self.left_out.text())

    def _search(self, folder: Path, real: Path) -> None:
        self.folders.add(real)
        waiting = [(folder, real)]
        for here, there in waiting:
            with errors_named(here), os.scandir(here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            kind = None if here is self.root else kind_of(here, [entry.name for entry in found])
            if kind is not None:
                self.left_out.note(here, _with_article(kind))
                continue
            for entry in found:
                path, below = here / entry.name, there / entry.name
                if entry.name.startswith("."):
                    self.left_out.hidden += 1
                    continue
                if entry.is_symlink():
                    (self.folder_links if path.is_dir() else self.file_links).append(path)
                elif not entry.is_dir(follow_symlinks=False):
                    self._file(path)
                elif below in self.folders:
                    self.left_out.note(path, "a folder that is read by another name")
                elif not self._avoided(below):
                    self.folders.add(below)
                    waiting.append((path, below))

    def _avoided(self, real: Path) -> bool:
        return any(real.is_relative_to(folder) for folder in self.avoid)

    def _file(self, path: Path) -> None:
        if suffix_of(path) is None:
            self.left_out.suffixes[path.suffix.lower() or "(none)"] += 1
            return
        with errors_named(path):
            found = path.stat()
            special = _special(found.st_mode)
            vocabulary = not special and is_vocabulary(path)
        if special or vocabulary:
            self.left_out.note(path, special or "the vocabulary of a tokenizer")
        elif _ABOUT.fullmatch(path.name):
            self.left_out.note_about(path)
        else:
            self.files.append(_listed(path, found))

    def _follow_folder(self, link: Path) -> None:
        real = real_path(link)
        around = real_path(link.parent).is_relative_to(real)
        if around or real in self.folders:
            self.left_out.note(link, "a link to a folder around it" if around else "a link to a folder that is read")
        elif not self._avoided(real):
            self._search(link, real)

    def _follow_files(self) -> None:
        if not self.file_links:
            return
        read = {real_path(Path(file.path)) for file in self.files}
        for link in sorted(self.file_links):
            real = real_path(link)
            if not link.exists():
                if suffix_of(link) is not None:
                    raise CorpusError(
                        f"corpus: {link} is a link to {link.readlink()}, which does not exist; restore the text or "
                        "remove the link"
                    )
                self.left_out.note(link, "a link to nothing")
            elif suffix_of(link) is not None and real in read:
                self.left_out.note(link, "a link to a file that is read")
            else:
                read.add(real)
                self._file(link)


def _refused(folder: Path, kind: Kind) -> CorpusError:
    way = "give the files or folders with the text by name"
    if kind == "run" and (folder / "store").is_dir():
        way = f"give {folder / 'store'}, the store of the text that it was trained on"
    elif kind == "unfinished store":
        way = "finish it with the command that began it and give the store, or give the text"
    what = _with_article(kind)
    return CorpusError(f"corpus: {folder} is {what}, which is not read as text; {way}")


def _with_article(kind: str) -> str:
    return " ".join(["an" if kind[0] in "aeiou" else "a", kind])
