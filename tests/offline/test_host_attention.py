"""The backward of attention in CUDA C++, run on the CPU: right by the criterion, free of faults in every schedule."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from offline import nvcc
from offline.compiled import compiled, programs
from offline.host import attention, build
from offline.host.attention_cases import SUBJECT, against_fp64, gradient_of
from offline.host.device import Machine
from offline.host.mutations import Mutation
from offline.nvcc import Compiled
from offline.ptx.program import Program
from unmask_kernels.testing.attention import attention_case

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
needs_nvcc = pytest.mark.skipif(bool(nvcc.why_not()), reason=nvcc.why_not() or "nvcc is there")

SOURCE = nvcc.SOURCES / "attention" / "backward_sm80.cu"
HEADER = nvcc.SOURCES / "attention" / "attention.h"


@pytest.fixture(scope="module")
def machine() -> Machine:
    return attention.build()


@pytest.mark.parametrize("name", SUBJECT.cases)
def test_kernels_are_right_in_every_schedule(machine: Machine, name: str) -> None:
    for schedule in range(4):
        with machine.device(schedule=schedule) as device:
            SUBJECT.cases[name](device)
        device.report.check()


@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize(
    ("name", "lengths", "dtype"),
    [("500x8", [8] * 500, torch.bfloat16), ("long", [256, 255, 129, 97], torch.float16)],
    ids=["500x8", "long"],
)
def test_matches_fp64_truth(machine: Machine, name: str, lengths: list[int], dtype: torch.dtype, p: float) -> None:
    with machine.device(schedule=3) as device:
        against_fp64(device, attention_case(name, lengths, heads=1, p=p), dtype)
    device.report.check()


def test_results_do_not_depend_on_the_schedule(machine: Machine) -> None:
    inputs = attention_case("bits", [70, 140, 9, 65, 20, 64], heads=3, p=0.1).make(torch.bfloat16)
    results = []
    for schedule in range(5):
        with machine.device(schedule=schedule) as device:
            results.append(gradient_of(device, inputs))
    assert all(torch.equal(each, results[0]) for each in results)


@pytest.mark.parametrize("mutation", SUBJECT.mutations()[::15], ids=lambda mutation: mutation.name)
def test_a_removed_barrier_wait_or_bound_is_noticed(mutation: Mutation) -> None:
    assert SUBJECT.outcome(mutation, range(1)).caught_by


def test_waits_commits_barriers_swizzles_and_places_are_changed() -> None:
    mutations = SUBJECT.mutations()
    kinds = [mutation.what for mutation in mutations]
    assert kinds.count("removed") == 8 and kinds.count("without the swizzle") == 2
    assert kinds.count("one place in the place of two") == 2 and kinds.count("one more or less") > 30
    copies = [mutation for mutation in mutations if "copy_" in mutation.before and mutation.what == "removed"]
    assert len(copies) == 4


@cache
def kernels_of(architecture: str) -> dict[str, Program]:
    return programs(nvcc.ptx(SOURCE, architecture), HEADER)


@needs_nvcc
@pytest.mark.parametrize("architecture", nvcc.ARCHITECTURES)
@pytest.mark.parametrize("name", ["a prime over 128", "NaN in a neighbour"])
def test_kernels_are_right_as_nvcc_compiles_them(machine: Machine, name: str, architecture: str) -> None:
    with machine.device() as device, compiled(device, kernels_of(architecture), HEADER, schedule=1) as found:
        SUBJECT.cases[name](device)
    assert [*found] == []


@pytest.fixture(scope="module")
def sass() -> list[Compiled]:
    return [kernel for architecture in nvcc.ARCHITECTURES for kernel in nvcc.build(SOURCE, architecture)]


@needs_nvcc
def test_products_run_on_tensor_cores_and_copies_have_16_bytes(sass: list[Compiled]) -> None:
    assert len(sass) == 12 and len({kernel.name for kernel in sass}) == 6
    for kernel in sass:
        assert kernel.opcodes["HMMA"] >= 100 and kernel.opcodes["LDSM"] >= 30, kernel.name
        copies = {opcode for opcode in kernel.opcodes if opcode.startswith("LDGSTS.")}
        assert all(".128" in opcode for opcode in copies) and copies, kernel.name
        # all of dq, dk and dv
        assert kernel.wide_accesses["STG"] >= 12, kernel.name
        assert kernel.spills == 0 and kernel.stack_bytes == 0
