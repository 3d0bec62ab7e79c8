"""Facts about the machine and the commit, which every result file contains.

Nothing here changes a setting. `nvidia-smi` gives the GPU's clocks, power limit and driver.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

__all__ = ["DRY", "ROOT", "SHORT", "commit", "cpu_features", "describe", "facts", "fast_dtype", "features", "name"]

ROOT = Path(__file__).resolve().parent.parent
"""The root of the repository."""

DRY = os.environ.get("DRY", "0") not in ("", "0")
"""Whether `bench/gpu.sh` rehearses: benches then take tiny sizes on a CPU."""

SHORT = {torch.bfloat16: "bf16", torch.float32: "fp32"}
"""Short names of dtypes, for the names of cases."""

_PACKAGES = ("torch", "triton", "transformers", "sentence-transformers", "numpy", "pytest-benchmark")
_QUERIES = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.limit",
    "power.draw",
    "temperature.gpu",
    "memory.total",
)


def facts() -> dict[str, Any]:
    """Return machine, versions and threads as one flat mapping of JSON values."""
    found: dict[str, Any] = {
        "machine": name(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_features": cpu_features(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        found[package] = _version(package)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = properties.name
        found["gpu_capability"] = f"sm_{properties.major}{properties.minor}"
        found["gpu_processors"] = properties.multi_processor_count
        found["cuda"] = torch.version.cuda
        found |= _nvidia_smi()
    return found


def cpu_features() -> str:
    """Return the instructions that decide which dtype is fast, such as "AVX2" or "AVX512 AVX512_BF16 AMX_BF16"."""
    found = torch.cpu.get_capabilities()
    bf16 = [name.upper() for name in ("avx512_bf16", "amx_bf16") if found.get(name)]
    limits = [
        f"{name}={os.environ[name]}" for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA") if os.environ.get(name)
    ]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *bf16, *limits])


def name() -> str:
    """Return a folder name for this kind of machine: the GPU, or the processor with its number of cores."""
    if torch.cuda.is_available():
        title = torch.cuda.get_device_name(0)
    else:
        title = f"{_cpu_name()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def fast_dtype() -> torch.dtype:
    """Return the dtype that `train.dtype: auto` chooses here: bf16 where the machine multiplies it fast, else fp32.

    Where bf16 is emulated, a product takes a hundred times as long as in fp32.
    """
    from unmask.train.precision import choose_precision

    return choose_precision("auto", "cuda" if torch.cuda.is_available() else "cpu").dtype


def commit() -> dict[str, Any]:
    """Return the measured commit as `{"id", "dirty"}`; where there is no git, the variable COMMIT names it."""
    given = os.environ.get("COMMIT")
    if given:
        return {"id": given, "dirty": False}
    head = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    # results and generated pages may differ from the commit; measured code may not
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", "engine", "kernels", "csrc", "bench/*.py")
    return {"id": head or "unknown", "dirty": bool(changed)}


def describe(result: dict[str, Any]) -> str:
    """Return one line about a result: day, commit, machine, versions."""
    found, measured = result["machine_info"], result["commit_info"]
    cores = f"{found['threads']} of {found['cores']} cores"
    device = found.get("gpu") or f"{found['cpu']}, {features(result)}, {cores}"
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "triton", "transformers") if found.get(name))
    dirty = " with uncommitted changes" if measured.get("dirty") else ""
    parts = [str(result["datetime"])[:10], f"commit {measured['id'][:10]}{dirty}", device, versions]
    if found.get("nvidia_smi.driver_version"):
        parts.append(f"driver {found['nvidia_smi.driver_version']}, at most {found['nvidia_smi.clocks.max.sm']}")
    return "; ".join(parts) + "."


def features(result: dict[str, Any]) -> str:
    """Return the features of the processor on which a result was measured."""
    found = result["machine_info"]
    # files from before November 2026 name the vector instructions alone
    return str(found.get("cpu_features") or found.get("cpu_capability") or "features unknown")


def _cpu_name() -> str:
    if Path("/proc/cpuinfo").exists():
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvidia_smi() -> dict[str, str]:
    line = _output("nvidia-smi", f"--query-gpu={','.join(_QUERIES)}", "--format=csv,noheader")
    values = line.splitlines()[0].split(", ") if line else []
    return {f"nvidia_smi.{key}": value for key, value in zip(_QUERIES, values, strict=False)}


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
