"""The door to `unmask_kernels._C`, the kernels in CUDA C++, and the reasons why it stays closed here.

An installation may lack the extension: it is built where nvcc is found. Nothing else imports it. What can be wrong with
it is told before a kernel starts: it was built from other sources or for another version, there is no driver or it is
too old, or no code was compiled for the GPU.

The CUDA runtime is part of the extension and decides the oldest driver, by the minor version compatibility of CUDA: a
runtime 12.x, such as 12.8 or 12.9, runs on drivers from 525 on, a runtime 13.x on drivers from 580 on.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import re
import shlex
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ._sources import hash_of_sources
from .dispatch import BackendUnavailable

__all__ = [
    "OLDEST_DRIVERS",
    "Extension",
    "build_command",
    "cuda_reasons",
    "has_code",
    "installed",
    "load_extension",
    "staleness",
]

OLDEST_DRIVERS = {12: 525, 13: 580}
"""The oldest driver for a runtime of each major version of CUDA."""

_NAME = "unmask_kernels._C"
_BUILD = "run `unmask doctor` for the command that builds it"
_AGAIN = "run `unmask doctor` for the command that builds it again"


class Extension(NamedTuple):
    """What is known of the extension on this machine.

    Attributes:
        architectures: what it was compiled for, such as "sm_80 sm_90a compute_80".
        runtime: version of its CUDA runtime, such as 13000 for 13.0.
        driver: newest version of CUDA that the driver knows; 0 without a driver.
        fault: why it cannot be used at all, or "".
    """

    architectures: str
    runtime: int
    driver: int
    fault: str

    @property
    def oldest_driver(self) -> int:
        """The oldest driver for its runtime, such as 580."""
        newest = max(OLDEST_DRIVERS)
        return OLDEST_DRIVERS.get(self.runtime // 1000, OLDEST_DRIVERS[newest])


def written(version: int) -> str:
    """Return a version of CUDA as people write it: "13.0" for 13000."""
    return f"{version // 1000}.{version % 1000 // 10}"


@cache
def installed() -> Extension | None:
    """Return what is known of the extension; None if this installation has none."""
    if importlib.util.find_spec(_NAME) is None:
        return None
    try:
        module = importlib.import_module(_NAME)
    except ImportError as error:
        return Extension("", 0, 0, f"{_NAME} cannot be imported: {error}; {_AGAIN}")
    return Extension(
        module.architectures,
        module.runtime_version,
        module.driver_version(),
        staleness(_NAME, module.version, module.sources, "csrc"),
    )


def cuda_reasons(device: str, architecture: str) -> tuple[str, ...]:
    """Return why no CUDA backend runs on a kind of device, such as "cuda", of an architecture, such as "sm_90"."""
    found = installed()
    reasons = []
    if found is None:
        reasons.append(f"{_NAME} is not built; {_BUILD}")
    elif found.fault:
        reasons.append(found.fault)
    if device != "cuda":
        reasons.append(f"needs a CUDA tensor, got {device}")
    elif not has_code(architecture, "compute_80"):
        reasons.append(f"needs a GPU of compute capability 8.0 or newer, got {architecture}")
    elif found is not None and not found.fault:
        reasons += _reasons_on_a_gpu(found, architecture)
    return tuple(reasons)


# what `torch.compiler.assume_constant_result` sets; that imports the whole compiler
cuda_reasons._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _reasons_on_a_gpu(found: Extension, architecture: str) -> list[str]:
    reasons = []
    if not has_code(architecture, found.architectures):
        way = f"set UNMASK_CUDA_ARCHS={architecture} and run the build command of `unmask doctor`"
        reasons.append(f"{_NAME} is built for {found.architectures}, this GPU is {architecture}; {way}")
    needed = f"CUDA {written(found.runtime)} of {_NAME} needs driver {found.oldest_driver} or newer"
    if found.driver == 0:
        reasons.append(f"no NVIDIA driver is found; {needed}")
    elif found.driver // 1000 < found.runtime // 1000:
        reasons.append(f"the driver knows CUDA up to {written(found.driver)} only; {needed}")
    return reasons


def has_code(architecture: str, compiled: str) -> bool:
    """Return whether code in a list such as "sm_80 sm_90a compute_80" runs on a GPU such as "sm_86".

    sm_80 runs on 8.x from 8.0 on, sm_90a on 9.0 alone. From compute_80 a driver makes code for every GPU from 8.0 on.
    """
    here = re.fullmatch(r"sm_(\d+)(\d)", architecture)
    if here is None:
        return False
    major, minor = int(here[1]), int(here[2])
    for kind, first, last, suffix in re.findall(r"(sm|compute)_(\d+)(\d)([af]?)", compiled):
        same = (int(first), int(last)) == (major, minor)
        older = (int(first), int(last)) <= (major, minor)
        if same or (not suffix and older and (kind == "compute" or int(first) == major)):
            return True
    return False


def load_extension() -> ModuleType:
    """Return `unmask_kernels._C`.

    Raises:
        BackendUnavailable: it is not built, or not for this version.
    """
    found = installed()
    if found is None:
        raise BackendUnavailable(f"{_NAME} is not built; {_BUILD}")
    if found.fault:
        raise BackendUnavailable(found.fault)
    return importlib.import_module(_NAME)


def build_command(variable: str = "UNMASK_BUILD_CUDA") -> str:
    """Return the command that builds the extension that a variable of setup.py asks for, in this installation.

    In a checkout it installs the checkout; else it installs again from where pip got the package.
    """
    root = _checkout()
    if root is not None:
        return f"{variable}=1 pip install --no-deps --editable {shlex.quote(str(root))}"
    # pip keeps what it has built from the same sources, such as a package without the extension
    again = "--no-deps --force-reinstall --no-cache-dir --no-binary unmask"
    return f"{variable}=1 pip install {again} {shlex.quote(_origin())}"


def _checkout() -> Path | None:
    """Return the folder of the repository, if these modules lie in one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "csrc" / "bindings.cpp").is_file() and (root / "setup.py").is_file() else None


def _origin() -> str:
    """Return what pip was told to install: a folder, an archive, a repository, or the name of the package."""
    try:
        told = importlib.metadata.distribution("unmask").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        told = None
    if told is None:
        return "unmask"
    direct = json.loads(told)
    url = str(direct["url"])
    return f"{direct['vcs_info']['vcs']}+{url}" if "vcs_info" in direct else url


def staleness(name: str, version: str, sources: str, folder: str) -> str:
    """Return why an extension of a version, built from sources of a hash in a folder, is not the one of here, or ""."""
    root = _checkout()
    if root is not None:
        here = hash_of_sources(root / folder)
        if sources != here:
            return f"{name} was built from other sources (hash {sources}, {folder} here has {here}); {_AGAIN}"
        return ""
    try:
        expected = importlib.metadata.version("unmask")
    except importlib.metadata.PackageNotFoundError:
        return ""
    if version != expected:
        return f"{name} is of version {version}, unmask of {expected}; {_AGAIN}"
    return ""
