"""Files that are not on this machine: `s3://bucket/texts`, `gs://bucket/a.jsonl`, `hf://datasets/owner/name/a.parquet`.

`fsspec` opens them; PyTorch brings it. For `s3://` and `gs://` it uses the file systems of pyarrow, which the base
install has, so neither `s3fs` nor `gcsfs` is needed; an address may then carry pyarrow's options, as in
`s3://bucket/texts?region=eu-central-1` and `gs://anonymous@bucket/texts`. Every other protocol is fsspec's, with the
package that it asks for: `hf://datasets/` needs huggingface_hub, `https://` aiohttp. `hf://owner/name` is a data set
(`hugging_face.py`).

Files are streamed, each time the text is read. Local files are opened and listed without fsspec: neither it nor pyarrow
knows links, pipes, hard links and names that are not UTF-8, on which `listing.py` depends.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.parse import urlsplit

from unmask.errors import CorpusError

__all__ = ["FilePath", "RemotePath", "is_remote", "remote_matches", "remote_path", "shown"]

_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*(?=://|::)")
# file systems that pyarrow has in its wheels
_ARROW = frozenset({"s3", "gs", "gcs"})
_HUB_FILES = "hf://datasets/"
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or folder of a remote file system, with the part of `Path` that readers use.

    Attributes:
        system: the file system, one of fsspec.
        key: its path there.
        uri: its whole address; as a text the path is the address without keys and options.
    """

    system: Any
    key: str
    uri: str

    @property
    def name(self) -> str:
        """The name of the file."""
        key = urlsplit(self.key).path if "://" in self.key else self.key
        return PurePosixPath(key).name

    @property
    def suffix(self) -> str:
        """The suffix of the name."""
        return PurePosixPath(self.name).suffix

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the file for reading bytes; what fails later is a `CorpusError` too."""
        with _failures_named(self.uri):
            stream = self.system.open(self.key, mode)
        return cast("IO[bytes]", io.BufferedReader(_Stream(stream, self.uri), _BUFFER))

    def info(self) -> dict[str, Any]:
        """Return what the file system knows: `type`, `size` and more."""
        with _failures_named(self.uri):
            return cast("dict[str, Any]", self.system.info(self.key))

    def files(self) -> list[tuple[RemotePath, dict[str, Any]]]:
        """Return all files in the folder and in the folders in it, each with its `info`."""
        with _failures_named(self.uri):
            found = self.system.find(self.key, detail=True)
        return [(self._beside(key), info) for key, info in found.items()]

    def matches(self) -> list[str]:
        """Return the addresses that this one stands for as a pattern, sorted.

        As in a shell, a star stands for no name that begins with a dot, and with a `/` at its end only for folders.
        """
        with _failures_named(self.uri):
            found = self.system.glob(self.key.rstrip("/"), detail=True)
        only_folders = self.key.endswith("/")
        asked = set(self.key.split("/"))
        keys = [
            key
            for key, info in found.items()
            if (info["type"] == "directory" or not only_folders)
            and not any(part.startswith(".") and part not in asked for part in key.split("/"))
        ]
        return sorted(self._beside(key).uri for key in keys)

    def _beside(self, key: str) -> RemotePath:
        if "://" in key:
            return RemotePath(self.system, key, key)
        protocol, _, rest = self.uri.partition("://")
        # options and rights of pyarrow's addresses hold for all files of a bucket
        user, at, _ = rest.partition("/")[0].rpartition("@") if protocol in _ARROW else ("", "", "")
        options = "".join(rest.partition("?")[1:]) if protocol in _ARROW else ""
        return RemotePath(self.system, key, f"{protocol}://{user}{at}{key}{options}")

    def __fspath__(self) -> str:
        return shown(self.uri)

    def __str__(self) -> str:
        return shown(self.uri)


FilePath = Path | RemotePath


def is_remote(location: str) -> bool:
    """Return whether an input is an address, such as `s3://bucket/texts`, and no data set of the hub."""
    if location.startswith("hf://"):
        return location.startswith(_HUB_FILES) and "/" in location.removeprefix(_HUB_FILES).strip("/")
    # an address may be longer than a file name can be
    return _PROTOCOL.match(location) is not None and not os.path.lexists(location)


def shown(location: str) -> str:
    """Return an input for messages and names: an address without keys and options, which may be secret."""
    if not is_remote(location):
        return location
    protocol, mark, rest = location.partition("?")[0].partition("://")
    bucket, slash, path = rest.partition("/")
    return "".join((protocol, mark, bucket.rpartition("@")[2], slash, path))


def remote_path(uri: str) -> RemotePath:
    """Find the file system of an address.

    Raises:
        CorpusError: its protocol is not known, or a package for it is not installed.
    """
    from fsspec.core import url_to_fs

    protocol = _PROTOCOL.match(uri)
    assert protocol is not None
    try:
        if protocol[0] in _ARROW:
            address, mark, options = uri.partition("://")[2].partition("?")
            bucket, slash, path = address.partition("/")
            system, root = _arrow_system(f"{protocol[0]}://{bucket}{slash}{mark}{options}")
            return RemotePath(system, f"{root.rstrip('/')}{slash if path else ''}{path}", uri)
        system, key = url_to_fs(uri)
        key += "/" * (uri.endswith("/") and not key.endswith("/"))
    except ImportError as error:
        way = "pip install 'unmask[datasets]' brings it" if protocol[0] == "hf" else "install what it names"
        raise CorpusError(f"corpus: {shown(uri)} needs a package ({error}); {way}, or copy the files") from None
    # each file system has errors of its own
    except Exception as error:
        raise CorpusError(
            f"corpus: {shown(uri)} cannot be opened ({error}); give an address of s3://, gs://, hf://datasets/, "
            "https:// or another protocol of fsspec, or copy the files"
        ) from None
    return RemotePath(system, key, uri)


def remote_matches(pattern: str) -> list[str]:
    """Return the addresses that a pattern stands for, sorted."""
    return remote_path(pattern).matches()


@cache
def _arrow_system(bucket: str) -> tuple[Any, str]:
    """Return the file system of a bucket, which may ask the network for its region, and the bucket's path there."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    system, root = FileSystem.from_uri(bucket)
    return ArrowFSWrapper(system), root


@contextmanager
def _failures_named(uri: str) -> Iterator[None]:
    try:
        yield
    # each file system has errors of its own
    except Exception as error:
        raise CorpusError(
            f"corpus: {shown(uri)} cannot be read ({type(error).__name__}: {error}); check the address, the network "
            "and your rights, or copy the files"
        ) from None


class _Stream(io.RawIOBase):
    """The stream of a remote file, whose errors become the `CorpusError` that names it."""

    def __init__(self, stream: Any, uri: str) -> None:
        self._stream, self._uri = stream, uri

    def readinto(self, buffer: Any) -> int:
        with _failures_named(self._uri):
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with _failures_named(self._uri):
            self._stream.seek(offset, whence)
            return int(self._stream.tell())

    def tell(self) -> int:
        return int(self._stream.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
