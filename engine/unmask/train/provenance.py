"""Where and with what a state was computed: what must agree for a resumed run to repeat its bits."""

import platform

import torch

__all__ = ["differences", "machine"]


def machine(device: torch.device) -> dict[str, str]:
    """Name of the device, and versions of PyTorch and Python."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
    return {"device": name, "torch": torch.__version__, "python": platform.python_version()}


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """A sentence for each thing that is not as it was."""
    return [
        f"{name} was {before.get(name)}, now {now.get(name)}: same data and masks, but sums may round differently"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
