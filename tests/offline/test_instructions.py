"""Inline assembly of csrc/common: on the host machine, and as nvcc compiles it, by its own definition."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch

from offline import nvcc
from offline.compiled import compiled, programs
from offline.host import build, instructions
from offline.host.build import HOST
from offline.host.device import Machine
from offline.ptx.program import Program

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
needs_nvcc = pytest.mark.skipif(bool(nvcc.why_not()), reason=nvcc.why_not() or "nvcc is there")


@pytest.fixture(scope="module")
def machine() -> Machine:
    return instructions.build()


@pytest.mark.parametrize("name", instructions.RESULTS)
def test_the_host_machine_does_what_they_say(machine: Machine, name: str) -> None:
    for schedule in range(1 if name == "conversions" else 10):
        with machine.device(schedule=schedule) as device:
            result, right = instructions.RESULTS[name](device)
        device.report.check()
        assert torch.equal(result, right), schedule


@cache
def text_of(architecture: str) -> str:
    return nvcc.ptx(instructions.SOURCE, architecture)


def run(machine: Machine, name: str, kernels: dict[str, Program], schedule: int = 0) -> tuple[bool, list[str]]:
    """Run a kernel on the PTX machine; return whether its result is right, and the faults."""
    with machine.device() as device, compiled(device, kernels, instructions.SOURCE, schedule=schedule) as found:
        result, right = instructions.RESULTS[name](device)
    return torch.equal(result, right), [*found]


@needs_nvcc
@pytest.mark.parametrize("architecture", nvcc.ARCHITECTURES)
@pytest.mark.parametrize("name", instructions.RESULTS)
def test_what_nvcc_makes_of_them_does_the_same(machine: Machine, name: str, architecture: str) -> None:
    kernels = programs(text_of(architecture), instructions.SOURCE)
    for schedule in range(1 if name == "conversions" else 5):
        assert run(machine, name, kernels, schedule) == (True, [])


@needs_nvcc
@pytest.mark.parametrize("name", ["chain", "normalise"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ld.acquire.gpu.u32", "ld.global.u32"),
        ("atom.acq_rel.gpu.add", "atom.relaxed.gpu.add"),
        ("atom.acq_rel.gpu.add", "atom.acquire.gpu.add"),
    ],
)
def test_a_weaker_instruction_between_blocks_is_a_race(machine: Machine, name: str, before: str, after: str) -> None:
    text = text_of("sm_90a")
    assert before in text
    _, found = run(machine, name, programs(text.replace(before, after), instructions.SOURCE))
    assert found and all(each.startswith("race in global memory: it is ") for each in found)


@needs_nvcc
def test_each_barrier_of_a_block_is_needed(machine: Machine) -> None:
    assert without_each(machine, "normalise", "normalise_kernel", r"bar\.sync\s+0;") == [True, True]


@needs_nvcc
def test_copies_arrive_in_groups_that_are_made_and_waited_for(machine: Machine) -> None:
    pattern = r"cp\.async\.(commit|wait)_group[^;]*;"
    assert without_each(machine, "copies of 16 bytes", "copies_kernelILi16E", pattern) == [True, True, True]


def without_each(machine: Machine, name: str, kernel: str, pattern: str) -> list[bool]:
    """Take out each instruction of a kernel that a pattern matches, and say whether that is noticed."""
    text = text_of("sm_90a")
    begin = re.search(rf"\.entry \w*{kernel}", text).end()  # type: ignore[union-attr]
    stop = (text + ".entry").index(".entry", begin)
    noticed = []
    for match in re.finditer(pattern, text[begin:stop]):
        start, end = begin + match.start(), begin + match.end()
        right, found = run(machine, name, programs(text[:start] + text[end:], instructions.SOURCE))
        noticed.append(bool(found) or not right)
    return noticed


def test_the_kernels_use_every_function() -> None:
    folder = HOST.parents[2] / "csrc" / "common"
    files = ("instructions.cuh", "copies.cuh", "matrices.cuh")
    declared = "".join((folder / name).read_text("utf-8") for name in files)
    names = set(re.findall(r"__forceinline__ [\w:]+[\s*&]+(\w+)\(", declared))
    used = instructions.SOURCE.read_text("utf-8")
    assert {"load_acquire", "pack", "copy_async", "copy_wait", "load_matrices", "multiply"} <= names
    assert [name for name in sorted(names) if not re.search(rf"\b{name}(<[^;()]*>)?\(", used)] == []
