"""Where and with what a state was computed: what must agree for a resumed run to repeat its bits."""

import platform
from pathlib import Path

import torch

from unmask import __version__

__all__ = ["differences", "machine", "processor"]


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Name of the device, dtype of activations on it, and versions of unmask, PyTorch and Python."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "activations": str(dtype).removeprefix("torch."),
        "unmask": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor() -> str:
    """Model name of the CPU, or its architecture where the system does not tell."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """A sentence for each thing that both know and that is not as it was."""
    return [
        f"{name} was {before[name]}, now {now[name]}: same data and masks, but sums may round differently"
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
    ]
