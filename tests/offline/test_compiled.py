"""What nvcc makes of the kernels of csrc gives right results on the PTX machine, and each fault is found there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from offline import nvcc
from offline.compiled import compiled, programs
from offline.host import build, optimizer
from offline.host.device import Device, Machine
from offline.host.mutations import Mutation
from offline.host.optimizer_cases import SUBJECT, against_fp64
from offline.ptx.program import Program
from unmask_kernels.testing.optimizer import optimizer_case

REASON = nvcc.why_not() or build.missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "everything is there")

HEADER = nvcc.SOURCES / "optimizer" / "optimizer.h"
_SIZES = (8192 + 2048 + 5, 2048, 7, 0, 130)


def _case(name: str, dtype: torch.dtype = torch.float32, **how: object) -> Callable[[Device], object]:
    case = optimizer_case(name, _SIZES, updates=2, **how)  # type: ignore[arg-type]
    return lambda device: against_fp64(device, case, dtype)


CASES: dict[str, Callable[[Device], object]] = {
    "adamw, copies": _case("adamw", copies=True, max_norm=1.0),
    "adamw, bf16": _case("adamw-bf16", torch.bfloat16, bias_correction=False, grad_scale=128.0),
    "adamw, fp16": _case("adamw-fp16", torch.float16, max_norm=1e9),
    "stable": _case("stable", clip_update=True, max_norm=2.0),
    "stable, bf16": _case("stable-bf16", torch.bfloat16, clip_update=True, copies=True),
    "lamb": _case("lamb", algorithm="lamb", copies=True, max_norm=1.0),
    "lamb, fp16": _case("lamb-fp16", torch.float16, algorithm="lamb", bias_correction=False),
    **{
        name: SUBJECT.cases[name]
        for name in ("more rows than one launch writes", "one tensor is misaligned", "skipped by NaN", "at the norm")
    },
}


@pytest.fixture(scope="module")
def machine() -> Machine:
    return optimizer.build()


@cache
def kernels_of(architecture: str, folder: Path = nvcc.SOURCES) -> dict[str, Program]:
    return programs(nvcc.ptx(folder / "optimizer" / "optimizer.cu", architecture, folder), HEADER)


def noticed(machine: Machine, case: Callable[[Device], object], kernels: dict[str, Program], schedule: int = 1) -> str:
    """Run a case; say what is noticed, in a line, "" for nothing."""
    wrong = ""
    with machine.device() as device, compiled(device, kernels, HEADER, schedule=schedule) as found:
        try:
            case(device)
        except AssertionError as error:
            wrong = str(error).splitlines()[0]
    return next(iter(found), wrong)


@pytest.mark.parametrize("architecture", nvcc.ARCHITECTURES)
@pytest.mark.parametrize("name", CASES)
def test_kernels_are_right_as_nvcc_compiles_them(machine: Machine, name: str, architecture: str) -> None:
    assert noticed(machine, CASES[name], kernels_of(architecture)) == ""


@pytest.mark.parametrize("schedule", range(2, 6))
def test_results_do_not_depend_on_which_blocks_go_first(machine: Machine, schedule: int) -> None:
    assert noticed(machine, CASES["lamb"], kernels_of("sm_90a"), schedule) == ""


def test_a_launch_takes_the_shared_memory_that_the_page_says(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    monkeypatch.setattr("offline.compiled._run", lambda launch, *rest: seen.add(launch.shared_bytes))
    noticed(machine, CASES["at the norm"], kernels_of("sm_90a"))
    (largest,) = seen - {0}
    assert f"adds {largest} bytes" in (nvcc.SOURCES / "README.md").read_text("utf-8")


_INDICES = (
    "if (at <= count) to[at] = values[at];",
    "for (unsigned at = threadIdx.x; at <= chunks; at += THREADS) {",
    "const bool moments = is_aligned<16>(row.weight) && is_aligned<16>(row.first) && true;",
)
BROKEN = [each for each in SUBJECT.mutations() if each.what == "removed" or each.after.strip() in _INDICES]
"""Every barrier and wait is removed, two indices go one too far, and a check of alignment is missing."""


@pytest.mark.parametrize(
    "mutation",
    # nvcc takes a few seconds for each
    [pytest.param(each, marks=() if at % 4 == 0 else pytest.mark.slow) for at, each in enumerate(BROKEN)],
    ids=lambda mutation: mutation.name,
)
def test_a_broken_kernel_is_noticed_as_nvcc_compiles_it(machine: Machine, mutation: Mutation, tmp_path: Path) -> None:
    copy = tmp_path / "csrc"
    shutil.copytree(nvcc.SOURCES, copy)
    mutation.apply(copy)
    kernels = kernels_of("sm_90a", copy)
    cases = ("lamb", "one tensor is misaligned")
    assert any(noticed(machine, CASES[name], kernels, schedule) for name in cases for schedule in range(1, 4))


def test_every_barrier_and_wait_and_two_indices_are_broken() -> None:
    assert len(BROKEN) == 11 and sum(mutation.what == "removed" for mutation in BROKEN) == 8
