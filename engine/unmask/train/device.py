"""The device that a run trains on: a CUDA device if there is one, or what `train.device` asks for.

On the GPU of an Apple computer (mps) the backends `torch` run: Triton and CUDA have no such device. It is not chosen by
itself, since no run of ours has trained there yet.
"""

import logging
from typing import Literal

import torch

from unmask.errors import ConfigError
from unmask.train.parallel import Ranks

__all__ = ["choose_device"]

_log = logging.getLogger(__name__)


def choose_device(asked: Literal["auto", "cpu", "cuda", "mps"], ranks: Ranks) -> torch.device:
    """Return the device of this rank.

    Raises:
        ConfigError: there is no such device here, or several processes cannot share it.
        RunError: a rank has no GPU of its own.
    """
    has_mps = torch.backends.mps.is_available()
    if asked == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "config: train.device is 'cuda', but PyTorch finds no CUDA device here; install a driver and a PyTorch "
            "with CUDA, or give --train.device auto"
        )
    if asked == "mps" and not has_mps:
        raise ConfigError(
            "config: train.device is 'mps', but PyTorch finds no GPU of an Apple computer here; give --train.device "
            "auto"
        )
    if asked == "mps" and ranks.size > 1:
        raise ConfigError(
            f"config: train.device is 'mps', which trains one process, but there are {ranks.size}; start one, or give "
            "--train.device cpu"
        )
    device = ranks.device() if asked in ("auto", "cuda") else torch.device(asked)
    if asked == "auto" and has_mps and device.type == "cpu" and ranks.size == 1:
        _log.info("train.device: the CPU trains; --train.device mps takes the GPU of this computer")
    return device
