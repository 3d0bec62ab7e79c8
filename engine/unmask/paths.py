"""Paths as people type them and read them, and writes to them that survive a power cut.

A path may begin with `~` or `~name` for a home folder, as in a shell, wherever one is given: an option,
`--option=path`, a setting in YAML, `name=path`. A file name is bytes. Python keeps bytes that are not UTF-8 as half
surrogates, which no text file takes; `printable` shows them as escapes.
"""

import difflib
import errno
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path

from unmask.errors import ConfigError

__all__ = [
    "address_of",
    "as_typed",
    "expanded",
    "expanded_input",
    "name_and_location",
    "nearest_name",
    "printable",
    "replace_text",
    "require_utf8",
    "sync",
    "way_to_room",
]

_HALVES = re.compile("[\ud800-\udfff]")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_NAME = re.compile(r"[\w.-]+")
# control characters and line breaks of Unicode, which would move the cursor, and half surrogates
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def way_to_room(reason: str | None, otherwise: str = "make room") -> str:
    """Return what lets a file be written for which there was no room.

    Args:
        reason: why it could not be written, in the words of the system.
        otherwise: the way out where no limit for the size of a file is the reason.
    """
    return "raise the limit for the size of a file (ulimit -f)" if reason == os.strerror(errno.EFBIG) else otherwise


def expanded(path: str) -> str:
    """Return the path of a run, store, model or setting with the home folder for a leading `~` or `~name`.

    Raises:
        ConfigError: the home folder is unknown, or the path holds a NUL or is not UTF-8.
    """
    require_utf8(path)
    return _at_home(path)


def address_of(location: str | os.PathLike[str]) -> str | None:
    """Return the address that a location is, such as `s3://bucket/store`, or None for a path of this machine.

    A `Path` that was made of an address has lost a slash, and gets it back.
    """
    found = _ADDRESS.match(os.fspath(location))
    if found is None or os.path.lexists(location):
        return None
    protocol, path = found.groups()
    return f"{protocol}:///{path}" if protocol == "file" else f"{protocol}://{path}"


def nearest_name(path: Path) -> Path | None:
    """Return what lies beside a path that does not exist and has nearly its name; None if nothing does."""
    with suppress(OSError, ValueError):
        # a link to nothing is no help
        there = [one.name for one in path.parent.iterdir() if one.exists()]
        close = difflib.get_close_matches(path.name, there, n=1, cutoff=0.75)
        if close:
            return path.with_name(close[0])
    return None


def require_utf8(path: str) -> None:
    """Refuse a name that the libraries behind stores, tokenizers and models cannot open. Text is read from any file.

    Raises:
        ConfigError: it is not UTF-8.
    """
    if not _HALVES.search(path):
        return
    shown = printable(path)
    if "\\ud" in shown:
        raise ConfigError(f"the name {shown} holds half a surrogate pair, which no file name does; write the character")
    if "\\x" not in shown:
        raise ConfigError(f"the name {shown} needs a locale that knows UTF-8; set PYTHONUTF8=1")
    raise ConfigError(
        f"the name {shown} must be UTF-8, which the libraries that read and write stores and models need; rename it, "
        "for example with convmv"
    )


def expanded_input(given: str) -> str:
    """Return the `[NAME=]PATH` of a text with the home folder in PATH, which may be any bytes."""
    name, equals, path = given.partition("=")
    if equals and path.startswith("~") and not Path(given).exists():
        return f"{name}={_at_home(path)}"
    return _at_home(given)


def printable(name: str) -> str:
    """Return `name` on one line with escapes for bytes that are no text: `caf\\xe9` for a file name in Latin-1."""
    if _HALVES.search(name):
        # the name may be UTF-8 although the locale is not
        with suppress(UnicodeError):
            name = os.fsencode(name).decode("utf-8", "surrogateescape")
    return _UNPRINTABLE.sub(_escape, name)


def as_typed(path: str | os.PathLike[str]) -> str:
    """Return `path` as one types it in a shell, for a command to copy."""
    name = os.fspath(path)
    return shlex.quote(f"./{name}" if name.startswith(("-", "~")) else name)


def name_and_location(given: str) -> tuple[str, str]:
    """Split an input, `path` or `name=path`, into its name, empty if there is none, and its path.

    A name is made of letters, digits, `.`, `-` and `_`. If the whole input exists as a path, it is one.
    """
    name, equals, location = given.partition("=")
    if equals and _NAME.fullmatch(name) and not os.path.lexists(given):
        return name, location
    return "", given


def replace_text(path: Path, text: str) -> None:
    """Replace the content of `path` by `text`, whole or not at all: after an OSError the old content is there."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, from the cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _at_home(path: str) -> str:
    if "\0" in path:
        raise ConfigError(f"{path!r} is no path, since it holds a NUL; leave that out")
    if not path.startswith("~"):
        return path
    mark, slash, rest = path.partition("/")
    try:
        home = str(Path(mark).expanduser())
    except RuntimeError:
        why = f"no user is called {mark[1:]}" if mark[1:] else "neither HOME nor the list of users says where that is"
        raise ConfigError(
            f"{printable(path)} begins with a home folder, but {why}; write the path out, or ./{printable(path)} for a "
            "folder of that name"
        ) from None
    return f"{home.rstrip('/')}{slash}{rest}" or "/"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    # the byte for which `os.fsdecode` gave this half surrogate
    code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
