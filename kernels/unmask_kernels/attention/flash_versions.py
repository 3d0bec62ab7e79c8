"""Which generations of flash-attn are installed, what each refuses, and which one a call gets.

    2   package flash-attn         Ampere and newer; Dao 2023, arXiv:2307.08691
    3   package flash_attn_3       Hopper only; Shah et al. 2024, arXiv:2407.08608
    4   package flash-attn-4       Hopper and Blackwell, in CuTe DSL; no backward for sm_80, and for sm_120 none that
                                   repeats its bits

Generations are found once, without importing them: choosing is traced by the compiler, and importing one loads CUDA
libraries. None of them knows our random addresses, so none runs dropout, although 2 has one of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

__all__ = ["GENERATIONS", "INSTALLED", "generation", "refusals"]


class Call(Protocol):
    """What a generation looks at; see `choice.AttentionCall`."""

    @property
    def device(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def p(self) -> float: ...


class Generation(NamedTuple):
    """One flash-attn.

    Attributes:
        package: what to install.
        runs_on: whether it has a deterministic backward for a compute capability.
        where: the same in words.
        widest: largest head dim.
    """

    package: str
    runs_on: Callable[[int], bool]
    where: str
    widest: int


GENERATIONS: dict[int, Generation] = {
    3: Generation("flash_attn_3", lambda capability: capability == 90, "sm_90", 192),
    4: Generation("flash-attn-4", lambda capability: 90 <= capability < 120, "sm_90 to sm_110", 128),
    2: Generation("flash-attn", lambda capability: capability >= 80, "sm_80 and newer", 192),
}
"""Best first."""


def _found() -> tuple[int, ...]:
    found = []
    if importlib.util.find_spec("flash_attn_interface") is not None:
        found.append(3)
    # 4 lives in a folder of the package of 2, which looking for "flash_attn.cute" would import
    spec = importlib.util.find_spec("flash_attn")
    folders = [] if spec is None else spec.submodule_search_locations or []
    has_files = any((Path(folder) / "cute" / "interface.py").is_file() for folder in folders)
    if has_files and importlib.util.find_spec("cutlass") is not None:
        found.append(4)
    if importlib.util.find_spec("flash_attn_2_cuda") is not None:
        found.append(2)
    return tuple(found)


INSTALLED: tuple[int, ...] = _found()
"""Generations on this machine, best first."""


def refusals(call: Call) -> list[str]:
    """Why no generation runs the call; empty when one does."""
    reasons = []
    if call.device != "cuda":
        reasons.append(f"needs a CUDA tensor, got {call.device}")
    if not INSTALLED:
        packages = ", ".join(one.package for one in GENERATIONS.values())
        reasons.append(f"flash-attn is not installed (one of the packages {packages})")
    if call.dtype not in (torch.float16, torch.bfloat16):
        reasons.append(f"activations must be fp16 or bf16, got {str(call.dtype).removeprefix('torch.')}")
    if call.p > 0.0:
        reasons.append(f"no dropout from addressed random numbers, got p {call.p:g}")
    if not reasons and generation(call) is None:
        reasons += [f"flash-attn {number}: {'; '.join(_own_reasons(number, call))}" for number in INSTALLED]
    return reasons


def generation(call: Call) -> int | None:
    """The generation that runs the call, None where each refuses."""
    for number in INSTALLED:
        if not _own_reasons(number, call):
            return number
    return None


def _own_reasons(number: int, call: Call) -> list[str]:
    one = GENERATIONS[number]
    reasons = []
    capability = call.architecture.removeprefix("sm_")
    if not (capability.isdecimal() and one.runs_on(int(capability))):
        reasons.append(f"its backward is for {one.where}, this device is {call.architecture}")
    if call.head_dim % 8 or call.head_dim > one.widest:
        reasons.append(f"head dim must be a multiple of 8 up to {one.widest}, got {call.head_dim}")
    return reasons
