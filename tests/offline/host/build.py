"""Compile kernels and the host machine into a shared library; a library that exists is used again."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import get_ident

__all__ = ["HOST", "CannotCompile", "compile_library", "missing", "under_address_sanitizer"]

HOST = Path(__file__).parent
_OLDEST = 11  # the g++ that tells volatile accesses from others
_COMMON = ["-std=c++17", "-g", "-fPIC"]
_STRICT = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# a compiler for GPUs may not keep a vector in memory that it has loaded, so loads stay as they are written
_KERNELS = ["-O1", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-tree-sra", "-fno-tree-fre"]
_PARAMETERS = ["--param", "tsan-distinguish-volatile=1", "--param", "tsan-instrument-func-entry-exit=0"]
# every access, array index and signed sum is seen by the machine
_THREAD = ["-fsanitize=thread,bounds,signed-integer-overflow", *_PARAMETERS]
_ADDRESS = ["-fsanitize=address", "-fsanitize-recover=address"]


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
    sources: Sequence[Path],
    *,
    include: Sequence[Path] = (),
    strict: bool = True,
    to: Path | None = None,
) -> Path:
    """Compile kernels, with the machine, into a library.

    In a process under AddressSanitizer (`under_address_sanitizer`) the library is made for it.

    Args:
        sources: `.cu` and `.cpp` files.
        include: folders of their headers; the machine's own come first.
        strict: whether a warning is an error.
        to: the folder to write to; None means a folder of temporary files that later calls share.
    Returns:
        The library.
    Raises:
        CannotCompile: the compiler refuses a file.
    """
    address = _ADDRESS if hasattr(ctypes.CDLL(None), "__asan_init") else []
    flags = [*_COMMON, *_KERNELS, *(address or _THREAD), *(_STRICT if strict else ["-w"])]
    machine = _machine_objects(address)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [*pool.map(lambda each: _object(each, flags, (HOST / "include", *include), to or _shared()), sources)]
    key = hashlib.sha256("\n".join(path.name for path in (*machine, *objects)).encode()).hexdigest()[:24]
    library = (to or _shared()) / f"{key}.so"
    if library.exists():
        return library
    link = ["g++", "-shared", *address, *map(str, (*objects, *machine)), "-o"]
    return _write(library, link)


def under_address_sanitizer(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run Python in a process where kernels are compiled for AddressSanitizer and nothing else.

    It sees what the machine does not: an array on a thread's stack, and memory of the launchers. It goes on after an
    error, whose report is in stderr and begins with "ERROR: AddressSanitizer".
    """
    library = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    options = "detect_leaks=0:halt_on_error=0:detect_stack_use_after_return=0"
    environment = {**os.environ, "LD_PRELOAD": library.strip(), "ASAN_OPTIONS": options, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=1800)


def _machine_objects(sanitizer: list[str]) -> list[Path]:
    sources = sorted((HOST / "machine").glob("*.cpp"))
    flags = [*_COMMON, *_STRICT, "-O2", *sanitizer]
    include = (HOST / "machine", HOST / "include")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*pool.map(lambda source: _object(source, flags, include, _shared()), sources)]


def _object(source: Path, flags: list[str], include: Sequence[Path], to: Path) -> Path:
    """Compile one file into a folder, unless the shared folder has its object.

    The flags, the file and every header that it may include decide which object it is.
    """
    digest = hashlib.sha256("\0".join([_compiler(), *flags]).encode())
    # files of the host include no device code
    kinds = (".h", ".cuh") if source.suffix == ".cu" else (".h",)
    headers = (path for folder in include for path in sorted(folder.rglob("*")) if path.suffix in kinds)
    for path in (source, *headers):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    name = f"{digest.hexdigest()[:24]}.o"
    if (_shared() / name).exists():
        return _shared() / name
    command = ["g++", *flags, *(f"-I{folder}" for folder in include), "-c", "-x", "c++", str(source), "-o"]
    return _write(to / name, command)


@lru_cache
def _compiler() -> str:
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


def _shared() -> Path:
    folder = Path(tempfile.gettempdir()) / f"unmask-host-machine-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _write(path: Path, command: list[str]) -> Path:
    """Run a command that writes a file; another process that writes it too does no harm."""
    fresh = path.with_name(f"{os.getpid()}-{get_ident()}-{path.name}")
    done = subprocess.run([*command, str(fresh)], capture_output=True, text=True, check=False)
    if done.returncode:
        fresh.unlink(missing_ok=True)
        raise CannotCompile(f"host machine: g++ refuses a file\n{done.stderr}")
    return fresh.replace(path)
