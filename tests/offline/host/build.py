"""Compile kernels and the host machine into a shared library; a library that exists is used again."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import get_ident

__all__ = ["ADDRESS", "HOST", "THREAD", "CannotCompile", "compile_library", "missing"]

HOST = Path(__file__).parent
_OLDEST = 11  # the g++ that tells volatile accesses from others
_COMMON = ["-std=c++17", "-g", "-fPIC"]
_STRICT = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# a compiler for GPUs may not keep a vector in memory that it has loaded, so loads stay as they are written
_KERNELS = ["-O1", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-tree-sra", "-fno-tree-fre"]
_PARAMETERS = ["--param", "tsan-distinguish-volatile=1", "--param", "tsan-instrument-func-entry-exit=0"]
THREAD = ["-fsanitize=thread,bounds,signed-integer-overflow", *_PARAMETERS]
"""Every access, array index and signed sum is seen by the machine."""
ADDRESS = ["-fsanitize=address"]
"""AddressSanitizer in the place of that: it sees arrays on the stack, and not races. The process needs its library."""


class CannotCompile(RuntimeError):
    """The compiler refuses the sources; the message has its words."""


@lru_cache
def missing() -> str | None:
    """Say why nothing can be compiled here; None if it can."""
    if shutil.which("g++") is None:
        return "the host machine needs g++, which is not installed"
    version = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=False).stdout
    number = re.match(r"g\+\+[^\n]*?(\d+)\.\d+\.\d+", version)
    if number is None:
        return "the host machine needs GNU's g++; the g++ here is another compiler"
    if int(number[1]) < _OLDEST:
        return f"the host machine needs g++ {_OLDEST} or newer, here is {number[1]}"
    return None


def compile_library(
    sources: Sequence[Path], *, include: Sequence[Path] = (), sanitizer: Sequence[str] = (), strict: bool = True
) -> Path:
    """Compile kernels, with the machine, into a library.

    Args:
        sources: `.cu` and `.cpp` files.
        include: folders of their headers; the machine's own come first.
        sanitizer: THREAD, or ADDRESS for another look; empty means THREAD.
        strict: whether a warning is an error.
    Returns:
        The library, in a folder of temporary files that later calls share.
    Raises:
        CannotCompile: the compiler refuses a file.
    """
    how = [*(sanitizer or THREAD)]
    flags = [*_COMMON, *_KERNELS, *how, *(_STRICT if strict else ["-w"])]
    flags += [f"-I{folder}" for folder in (HOST / "include", *include)]
    machine = _machine_objects(how if "address" in how[0] else [])
    objects = [_object(source, [*flags, "-x", "c++"], (HOST / "include", *include)) for source in sources]
    key = hashlib.sha256("\n".join(str(path) for path in (*machine, *objects)).encode()).hexdigest()[:24]
    library = _folder() / f"{key}.so"
    if not library.exists():
        link = ["-shared", *(how if "address" in how[0] else [])]
        _write(library, lambda to: ["g++", *link, "-o", to, *map(str, (*objects, *machine))])
    return library


def _machine_objects(sanitizer: list[str]) -> list[Path]:
    sources = sorted((HOST / "machine").glob("*.cpp"))
    flags = [*_COMMON, *_STRICT, "-O2", *sanitizer]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*pool.map(lambda source: _object(source, flags, (HOST / "machine", HOST / "include")), sources)]


def _object(source: Path, flags: list[str], include: Sequence[Path]) -> Path:
    """Compile one file; its object is known by the flags, the file and every header that it may include."""
    digest = hashlib.sha256("\0".join([_compiler(), *flags, str(source)]).encode())
    for path in (
        source,
        *(path for folder in include for path in sorted(folder.rglob("*")) if path.suffix in (".h", ".cuh")),
    ):
        digest.update(path.read_bytes())
    result = _folder() / f"{digest.hexdigest()[:24]}.o"
    if not result.exists():
        _write(result, lambda to: ["g++", *flags, "-c", str(source), "-o", to])
    return result


@lru_cache
def _compiler() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"unmask-host-machine-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _write(path: Path, command: Callable[[str], list[str]]) -> None:
    """Run a command that writes a file; another process that writes it too does no harm."""
    fresh = path.with_name(f"{os.getpid()}-{get_ident()}-{path.name}")
    done = subprocess.run(command(str(fresh)), capture_output=True, text=True, check=False)
    if done.returncode:
        fresh.unlink(missing_ok=True)
        raise CannotCompile(f"host machine: g++ refuses a file\n{done.stderr}")
    fresh.replace(path)
