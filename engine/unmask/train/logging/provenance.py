"""The machine and the versions that computed a state. They must agree for a resumed run to repeat its bits."""

import contextlib
import platform
from pathlib import Path

import torch

from unmask import __version__

__all__ = ["differences", "machine", "processor"]


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Return the device's name, the dtype of activations, and the versions of unmask, PyTorch and Python."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "activations": str(dtype).removeprefix("torch."),
        "unmask": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor() -> str:
    """Return the CPU's model name, or its architecture if the system does not tell the name."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return a message for each entry of both dictionaries whose value has changed."""
    return [
        f"{name} was {before[name]}, now {now[name]}: same data and masks, but sums may round differently"
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
    ]
