"""The optimizer's CUDA kernels, run on the CPU: right by the criterion, and free of faults in every schedule."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from offline.host import build, optimizer
from offline.host.__main__ import main as command
from offline.host.build import HOST
from offline.host.device import Machine
from offline.host.mutations import Mutation
from offline.host.optimizer_cases import SUBJECT, against_fp64
from unmask_kernels.testing.compare import same_bits
from unmask_kernels.testing.inputs import Case
from unmask_kernels.testing.optimizer import CASES, optimizer_case

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))

SCHEDULES = range(10)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return optimizer.build()


@pytest.mark.parametrize("name", SUBJECT.cases)
def test_kernels_are_right_in_every_schedule(machine: Machine, name: str) -> None:
    for schedule in SCHEDULES:
        with machine.device(schedule=schedule) as device:
            SUBJECT.cases[name](device)
        device.report.check()


MANY = optimizer_case(
    "thousand", (1,) * 990 + (3, 2, 100, 17, 1000, 5, 64, 9, 10_000, 100_000), updates=1, max_norm=1.0
)


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# of the longest case one dtype
CALLS = [(case, dtype) for case in CASES for dtype in DTYPES[: 1 if case.name == "many" else None]]


@pytest.mark.parametrize(("case", "dtype"), CALLS, ids=str)
def test_matches_fp64_truth(machine: Machine, case: Case, dtype: torch.dtype) -> None:
    with machine.device(schedule=2 + len(case.name)) as device:
        against_fp64(device, case, dtype)
    device.report.check()


def test_a_thousand_parameters_up_to_100_000_elements_match_fp64_truth(machine: Machine) -> None:
    with machine.device(schedule=5) as device:
        against_fp64(device, MANY, torch.bfloat16)
    device.report.check()


@pytest.mark.parametrize("algorithm", ["adamw", "lamb"])
def test_results_do_not_depend_on_the_schedule(machine: Machine, algorithm: str) -> None:
    inputs = optimizer_case("bits", (20_000, 1, 4097), algorithm=algorithm, max_norm=1.0, updates=1).make(torch.float32)
    results = []
    for schedule in SCHEDULES:
        with machine.device(schedule=schedule) as device:
            results.append(optimizer.run_on(device, inputs))
    for result in results[1:]:
        same_bits(result, results[0], "two schedules")


def test_an_element_costs_the_bytes_that_the_source_says(machine: Machine) -> None:
    """An update with fp32 gradients and a copy in bf16 reads 16 bytes an element and writes 14, by wide accesses."""

    def counted(size: int) -> Tensor:
        with machine.device() as device:
            inputs = optimizer_case("traffic", (size,), updates=1, copies=True).make(torch.float32)
            optimizer.run_on(device, inputs)
        counts = device.report.counts
        return torch.tensor(
            [counts.loaded_bytes, counts.stored_bytes, counts.loads[4], counts.loads[16], counts.stores[8]]
        )

    # both sizes are one chunk, so all that is not of an element is the same
    loaded, stored, narrow, wide, copies = (counted(8192) - counted(4096)).tolist()
    assert (loaded, stored) == (16 * 4096, 14 * 4096)
    assert (narrow, wide, copies) == (0, 4 * 1024, 1024)


def test_shared_memory_has_no_bank_conflicts(machine: Machine) -> None:
    with machine.device() as device:
        against_fp64(device, next(case for case in CASES if case.name == "lamb-clipped"), torch.float32)
    assert device.report.banks and device.report.bank_conflicts == 0


@pytest.mark.parametrize("mutation", SUBJECT.mutations()[::20], ids=lambda mutation: mutation.name)
def test_a_removed_barrier_wait_or_bound_is_noticed(mutation: Mutation) -> None:
    assert SUBJECT.outcome(mutation, range(2)).caught_by


def test_the_record_of_200_schedules_and_all_mutations_shows_no_fault() -> None:
    record = json.loads((HOST / "results" / "optimizer.json").read_text("utf-8"))
    assert record["schedules"]["count"] == 200 and record["faults"] == []
    assert len(record["mutations"]) > 60 and all(each["caught_by"] for each in record["mutations"])
    assert record["survivors"] == 0 and all(each["reason"] for each in record["equivalent"])


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    assert command(["examples", "--schedules", "2", "--mutations", "none", "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert found["schedules"]["count"] == 2 and found["schedules"]["accesses"] > 1000
    assert found["faults"] == [] and found["mutations"] == []


def test_the_machine_has_every_instruction_of_the_gpu() -> None:
    def declared(folder: str) -> set[str]:
        files = ("instructions.cuh", "copies.cuh", "matrices.cuh")
        text = "".join((HOST.parents[2] / folder / name).read_text("utf-8") for name in files)
        text = re.sub(r"//[^\n]*", "", text)
        functions = re.findall(r"(?:__device__ __forceinline__|HOST_MACHINE_INLINE)\s+([^;{]*?\))\s*{", text)
        return {re.sub(r"\(\s", "(", " ".join(each.split())) for each in functions}

    ours, theirs = declared("tests/offline/host/include/common"), declared("csrc/common")
    # beside them the machine has the weaker ones that mutations use
    assert ours - theirs == {
        "unsigned load_relaxed(const unsigned* counter)",
        "unsigned add_acquire(unsigned* counter, unsigned value)",
        "unsigned add_release(unsigned* counter, unsigned value)",
    }
    assert theirs <= ours and len(theirs) > 15
