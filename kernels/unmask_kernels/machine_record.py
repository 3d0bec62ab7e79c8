"""Records of a machine: what was verified or measured here, kept in the user's cache for the processes that follow.

A record is a TOML file of one *kind* ("verified", "tuned") for one `Machine`: a device, with its driver, PyTorch,
Triton and the sources of the kernels. A change of any of these asks for a new record. The folders, as they are read:

    UNMASK_CACHE          the user's own; it is read and written. Default: $XDG_CACHE_HOME/unmask, or ~/.cache/unmask
    UNMASK_SHARED_CACHE   one or more, separated by ":", which are read only, such as one of a cluster

    <folder>/verified/nvidia-h200-1f0a93c2.toml       kind, device, hash of the machine

A file is replaced as a whole, under a lock, so a kill leaves the old file or the new one, and of two processes that add
to a record at once each keeps the other's entries. Its last line is a mark, which a file that was cut off lacks.

Nothing here raises for what it finds in a file: a record that cannot be used comes back with the reason. Nothing but
`this_machine` of a GPU starts CUDA, so a process that imports the kernels can still fork.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import stat
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from .capability import processor_name

__all__ = [
    "Machine",
    "NotRecorded",
    "Record",
    "cache_folder",
    "locked",
    "read_records",
    "shared_folders",
    "this_machine",
    "update_record",
]

_FORMAT = 1
_END = "# end of the record\n"
_LARGEST_BYTES = 1 << 20
_WAIT_SECONDS = 10.0
_LEFT_OVER_SECONDS = 3600.0
_WORDS = {"driver": "driver", "torch": "PyTorch", "triton": "Triton", "kernels": "kernels' sources"}


class NotRecorded(RuntimeError):
    """A record could not be written; one sentence says why, and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a record holds for.

    Attributes:
        device: name of the GPU, or of the processor.
        architecture: "sm_90", or "cpu".
        driver: version of NVIDIA's driver; "none" without one.
        torch: version of PyTorch.
        triton: version of Triton, with the assembler if the environment names one; "none" if it is not installed.
        kernels: hash of the sources of this package.
    """

    device: str
    architecture: str
    driver: str
    torch: str
    triton: str
    kernels: str

    @property
    def file_name(self) -> str:
        """The name of its record's file."""
        words = re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")[:60]
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{words}-{digest[:8]}.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A file of the cache.

    Attributes:
        path: of the file.
        machine: for which it was made; None if the file does not tell.
        contents: its tables, without that of the machine.
        ignored: why it cannot be used with this driver and this software; empty if it can, on `machine.device`.
    """

    path: Path
    machine: Machine | None
    contents: Mapping[str, Any]
    ignored: str = ""


def this_machine(device: torch.device | str) -> Machine:
    """The machine with this device; "cuda" is the current GPU."""
    device = torch.device(device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, architecture = properties.name, f"sm_{properties.major}{properties.minor}"
    else:
        name, architecture = processor_name(), device.type
    return Machine(
        device=name,
        architecture=architecture,
        driver=driver_version(),
        torch=torch.__version__,
        triton=triton_version(),
        kernels=hash_of_sources(),
    )


def cache_folder() -> Path | None:
    """The user's own folder; None if there is neither a variable that names one nor a home folder."""
    named = os.environ.get("UNMASK_CACHE", "").strip()
    if named:
        return _expanded(named)
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    # the standard says that a relative path is to be ignored
    if base and Path(base).is_absolute():
        return Path(base) / "unmask"
    try:
        return Path.home() / ".cache" / "unmask"
    except RuntimeError:
        return None


def shared_folders() -> list[Path]:
    """The folders that are only read."""
    named = os.environ.get("UNMASK_SHARED_CACHE", "").split(os.pathsep)
    folders = [_expanded(folder.strip()) for folder in named if folder.strip()]
    return [folder for folder in folders if folder is not None]


def _expanded(folder: str) -> Path | None:
    """The path of a folder; None if it begins with "~" and there is no such home folder."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        return None


def read_records(kind: str) -> list[Record]:
    """Every record of a kind, the user's own first, each with the reason why it is ignored if it is."""
    folders = [folder for folder in (cache_folder(), *shared_folders()) if folder is not None]
    found = []
    for folder in dict.fromkeys(folders):
        try:
            paths = sorted(path for path in (folder / kind).iterdir() if path.suffix == ".toml")
        except OSError:
            continue
        found += [_read(path) for path in paths]
    return found


def update_record(
    kind: str,
    machine: Machine,
    change: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    comment: str = "",
    folder: Path | None = None,
) -> Path:
    """Change the record of a machine, or begin it.

    Args:
        kind: of the record, a folder's name.
        machine: that it holds for.
        change: gets the contents, empty for a new record, and returns the new ones: values that are text, numbers,
            truth values, lists or tables.
        comment: lines for a reader, at the head of the file.
        folder: where. Default: the user's own folder.
    Returns:
        The file.
    Raises:
        NotRecorded: the folder cannot be written.
    """
    own = folder or cache_folder()
    if own is None:
        raise NotRecorded(
            "the record is not kept, because there is no home folder; set UNMASK_CACHE to a folder that can be written"
        )
    path = own / kind / machine.file_name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent / ".lock", wait_seconds=_WAIT_SECONDS):
            before = _read(path) if path.exists() else None
            old = before.contents if before is not None and not before.ignored else {}
            contents = {"format": _FORMAT, "machine": asdict(machine), **change(old)}
            _replace(path, _toml(contents, comment))
    except OSError as error:
        why = error.strerror or str(error)
        raise NotRecorded(
            f"the record is not kept, because {path.parent} cannot be written ({why}); set UNMASK_CACHE to a folder "
            "that can"
        ) from None
    return path


def _read(path: Path) -> Record:
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            # to read a pipe would wait for ever
            return Record(path=path, machine=None, contents={}, ignored="cannot be read: it is no file")
        if state.st_size > _LARGEST_BYTES:
            return Record(path=path, machine=None, contents={}, ignored="damaged: it is too large for a record")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return Record(path=path, machine=None, contents={}, ignored="damaged: it is no text")
    except OSError as error:
        return Record(path=path, machine=None, contents={}, ignored=f"cannot be read: {error.strerror}")
    if not text.endswith(_END):
        return Record(path=path, machine=None, contents={}, ignored="damaged: its end is missing")
    try:
        contents = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return Record(path=path, machine=None, contents={}, ignored=f"damaged: {error}")
    except ValueError:
        return Record(path=path, machine=None, contents={}, ignored="damaged: a number in it has too many digits")
    if contents.pop("format", None) != _FORMAT:
        return Record(path=path, machine=None, contents={}, ignored="made by another version of unmask")
    about = contents.pop("machine", None)
    names = {field.name for field in fields(Machine)}
    if not isinstance(about, dict) or about.keys() != names or not all(isinstance(one, str) for one in about.values()):
        return Record(path=path, machine=None, contents={}, ignored="damaged: it does not say for which machine it is")
    machine = Machine(**about)
    return Record(path=path, machine=machine, contents=contents, ignored=_stale(machine))


def _stale(machine: Machine) -> str:
    """What has changed since a record was made; empty if nothing has."""
    here = {"driver": driver_version(), "torch": torch.__version__, "triton": triton_version()}
    then = asdict(machine)
    changed = [f"{_WORDS[name]} {then[name]}, here {value}" for name, value in here.items() if then[name] != value]
    if changed:
        return f"made with {'; '.join(changed)}"
    # sources are read last: a record of another machine does not need them
    return "" if machine.kernels == hash_of_sources() else "made with other sources of the kernels"


def driver_version() -> str:
    """The version of NVIDIA's driver, read without starting CUDA; "none" if there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        found = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]+)", text)
        if found is not None:
            return found[1]
    # some systems, such as WSL, have no such file; the library tells the version of CUDA that its driver has
    read = None if torch.version.cuda is None else getattr(torch._C, "_cuda_getDriverVersion", None)
    number = 0 if read is None else read()
    return f"for CUDA {number // 1000}.{number % 1000 // 10}" if number else "none"


@functools.cache
def triton_version() -> str:
    """The version of Triton, and the assembler where the environment asks for another than Triton's own."""
    version = "none"
    for package in ("triton", "pytorch-triton", "triton-windows"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(package)
            break
    others = {name: os.environ.get(name) for name in ("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH")}
    return " ".join([version, *(f"{name}={value}" for name, value in others.items() if value)])


@functools.cache
def hash_of_sources() -> str:
    """A hash of the Python files of this package."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(path: Path, *, wait_seconds: float) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be.

    After the wait, or where the system or its file system has no locks, go on without it.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with path.open("a") as lock:
        until = time.monotonic() + wait_seconds
        while time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    break
                time.sleep(0.02)
        yield


def _replace(path: Path, text: str) -> None:
    """Put a file in place of another at once, and remove what killed processes have left."""
    for old in path.parent.glob("*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _LEFT_OVER_SECONDS:
                old.unlink()
    handle, name = tempfile.mkstemp(prefix=f"{path.stem}-", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes a file for its owner alone; others may read a record
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _toml(contents: Mapping[str, Any], comment: str) -> str:
    """A TOML file: values first, then tables, then lists of tables."""
    plain = {name: value for name, value in contents.items() if not _is_table(value)}
    blocks = ["\n".join([*(f"# {line}".rstrip() for line in comment.splitlines()), *_lines(plain)])]
    for name, value in contents.items():
        if isinstance(value, Mapping):
            blocks.append("\n".join([f"[{_key(name)}]", *_lines(value)]))
        elif _is_table(value):
            blocks += ["\n".join([f"[[{_key(name)}]]", *_lines(one)]) for one in value]
    return "\n\n".join(blocks) + f"\n\n{_END}"


def _is_table(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping)


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(name)} = {_value(value)}" for name, value in table.items()]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # a string of JSON is one of TOML too, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return f"{{ {', '.join(_lines(value))} }}" if value else "{}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(
        f"machine_record: a value must be text, a number, a truth value, a list or a table, got {value!r}; leave it out"
    )
