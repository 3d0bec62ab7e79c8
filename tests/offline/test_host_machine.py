"""CUDA C++ runs on the CPU: right results in every schedule, and each fault is reported with its line."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from offline.host import build, examples, mutations
from offline.host.device import Machine

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))

SCHEDULES = range(10)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return examples.build()


def line_of(text: str) -> str:
    """Where the only line of the examples with this text is, as reports name it."""
    (number,) = [i for i, line in enumerate(examples.SOURCE.read_text().splitlines(), 1) if text in line]
    return f"kernels/examples.cu:{number}"


@pytest.mark.parametrize("name", examples.RESULTS)
def test_kernels_are_right_in_every_schedule(machine: Machine, name: str) -> None:
    for schedule in SCHEDULES:
        with machine.device(schedule=schedule) as device:
            result, right = examples.RESULTS[name](device)
        device.report.check()
        assert torch.equal(result, right), schedule


def test_a_schedule_repeats_and_others_differ(machine: Machine) -> None:
    def switches(schedule: int) -> int:
        with machine.device(schedule=schedule) as device:
            examples.RESULTS["transpose"](device)
        return device.report.counts.switches

    counts = [switches(schedule) for schedule in SCHEDULES]
    assert counts == [switches(schedule) for schedule in SCHEDULES] and len({*counts}) > 3


def test_bank_conflicts_and_traffic_are_counted_exactly(machine: Machine) -> None:
    for pitch, conflicts in ((32, 31), (33, 0), (34, 1), (40, 7)):
        with machine.device() as device:
            x = device.tensor(torch.randn(64, 64), read_only=True)
            assert device.call("run_transpose", x, device.empty((64, 64), torch.float32), 64, pitch) == 0
        report = device.report
        # four blocks read 32 columns of their tile; a column lies in 32 / (conflicts + 1) banks
        read = next(each for each in report.banks if each.place == line_of("= tile[threadIdx.x * pitch + row]"))
        assert (read.accesses, read.conflicts) == (128, 128 * conflicts) and report.bank_conflicts == read.conflicts
        assert report.counts.loaded_bytes == report.counts.stored_bytes == 64 * 64 * 4
        assert report.counts.loads == {1: 0, 2: 0, 4: 4096, 8: 0, 16: 0} and report.counts.barriers == 4


FAULTS = {
    "a barrier is missing": ("transpose", "__syncthreads();\n  column", "\n  column", "uninitialised shared memory"),
    "a barrier between two uses is missing": (
        "warp_scan",
        "values[threadIdx.x] += before;\n    __syncwarp();",
        "values[threadIdx.x] += before;",
        "race in shared memory",
    ),
    "blocks are not ordered": (
        "last_block_sum",
        "sums[blockIdx.x] = value;\n  __threadfence();",
        "sums[blockIdx.x] = value;",
        "race in global memory between blocks",
    ),
    "a wait for copies is missing": ("pipeline", "copy_wait(1)", "copy_wait(2)", "copy in flight"),
    "copies are never waited for": (
        "pipeline",
        "chunk < chunks; ++chunk) {\n    float* stage",
        "chunk + 1 < chunks; ++chunk) {\n    float* stage",
        "copy in flight",
    ),
    "one element too far": ("normalise", "if (i < count) y", "if (i <= count) y", "out of bounds"),
    "shared memory is too small": ("block_sum", "threads / 32 * sizeof", "threads / 64 * sizeof", "out of bounds in"),
    "an address is not aligned": (
        "normalise",
        "if (i < count) y[i] = x[i]",
        "if (i < count - 1) y[i] = [](float2 pair) { return pair.y; }(*reinterpret_cast<const float2*>(x + i))",
        "misaligned access",
    ),
    "a barrier that not all threads reach": (
        "block_sum",
        "__syncthreads();\n  if (threadIdx.x == 0) {\n    for (unsigned warp",
        "if (threadIdx.x > 0) __syncthreads();\n  if (threadIdx.x == 0) {\n    for (unsigned warp",
        "deadlock",
    ),
    "a lane that has left": (
        "last_block_sum",
        "float value = i < count ? x[i] : 0.0f;",
        "if (i >= count) return;\n  float value = x[i];",
        "deadlock",
    ),
    "a loop waits for what never comes": (
        "normalise",
        "!= gridDim.x) unmask",
        "<= gridDim.x) unmask",
        "deadlock: a loop",
    ),
    "a mask without the lane itself": (
        "block_sum",
        "__shfl_xor_sync(0xffffffffu",
        "__shfl_xor_sync(0xfffffffeu",
        "mask",
    ),
    "an array on the stack": (
        "warp_scan",
        "y[threadIdx.x] = values[threadIdx.x];\n}",
        "float kept[4] = {};\n  kept[threadIdx.x] = values[threadIdx.x];\n  y[threadIdx.x] = kept[3];\n}",
        "out of bounds of an array",
    ),
    "an index that overflows": (
        "warp_scan",
        "y[threadIdx.x] = values",
        "y[int(threadIdx.x) * 100000000 / 100000000] = values",
        "integer overflow",
    ),
    "what is only read is written": (
        "warp_scan",
        "y[threadIdx.x] = values",
        "const_cast<float*>(x)[0] = values",
        "constant",
    ),
    "a launch that does not end": ("warp_scan", "distance < 32;", "distance < 33 || x[0] < 99.0f;", "endless loop"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_with_its_line(name: str, tmp_path: Path) -> None:
    check, before, after, kind = FAULTS[name]
    source = tmp_path / "examples.cu"
    text = examples.SOURCE.read_text()
    assert text.count(before) == 1
    source.write_text(text.replace(before, after))
    with Machine.build(source, strict=False, to=tmp_path).device(most_accesses=100_000) as device:
        examples.RESULTS[check](device)
    assert any(kind in fault.kind and "/examples.cu:" in fault.place for fault in device.report.faults)
    with pytest.raises(AssertionError, match=r"host machine:\n.*examples\.cu:\d+"):
        device.report.check()


def test_the_first_line_and_the_other_line_of_a_race_are_named(tmp_path: Path) -> None:
    text = examples.SOURCE.read_text().replace(
        "sums[blockIdx.x] = value;\n  __threadfence();", "sums[blockIdx.x] = value;\n"
    )
    (tmp_path / "examples.cu").write_text(text)
    with Machine.build(tmp_path / "examples.cu", to=tmp_path).device() as device:
        examples.RESULTS["last_block_sum"](device)
    (fault,) = device.report.faults
    lines = [line.strip() for line in text.splitlines()]
    number, other = (int(place.rpartition(":")[2]) for place in (fault.place, fault.other_place))
    assert lines[number - 1].endswith("value += sums[block];") and lines[other - 1] == "sums[blockIdx.x] = value;"
    assert fault.kind == "race in global memory between blocks" and "is read after it was written" in fault.detail


def test_what_cuda_refuses_is_refused(machine: Machine) -> None:
    with machine.device(multiprocessors=1) as device:
        x = device.tensor(torch.ones(40 * 64))
        sums, arrived = device.empty((40,), torch.float32), device.tensor(torch.zeros(1, dtype=torch.int32))
        # 32 blocks of 64 threads fit a multiprocessor; a cooperative launch needs all blocks at once
        assert device.call("run_normalise", x, x, sums, arrived, 40 * 64, 40) == 720
        assert device.call("run_block_sum", x, sums, 64, 1, 2048) == 9
        # above 48 KB a kernel has to ask
        assert device.call("run_transpose", x, x, 32, 400) == 1
        assert device.report.counts.launches == 0


MUTATIONS = examples.SUBJECT.mutations()


def test_mutations_are_what_they_should_be() -> None:
    found = {(mutation.what, mutation.after.strip()) for mutation in MUTATIONS}
    assert {
        ("weakened", "__threadfence_block();"),
        ("weakened", "while (unmask::load_relaxed(arrived) != gridDim.x) unmask::pause();"),
        ("removed", ";"),
        ("weakened", "unmask::add_acquire(arrived, 1);"),
        ("one more or less", "if (i <= count) y[i] = x[i] / *total;"),
        ("without the condition", "if ((i < count) || true) y[i] = x[i] / *total;"),
    } <= found
    assert len(MUTATIONS) > 60 and sum(mutation.what == "removed" for mutation in MUTATIONS) > 15


@pytest.mark.parametrize("mutation", MUTATIONS[::9], ids=lambda mutation: mutation.name)
def test_a_removed_barrier_wait_or_bound_is_noticed(mutation: mutations.Mutation) -> None:
    assert examples.SUBJECT.outcome(mutation).caught_by


def test_a_change_that_nobody_notices_survives(tmp_path: Path) -> None:
    shutil.copy(examples.SOURCE, tmp_path)
    line = next(number for number, text in enumerate(examples.SOURCE.read_text().splitlines(), 1) if "pause()" in text)
    before = examples.SOURCE.read_text().splitlines()[line - 1]
    mutation = mutations.Mutation(path="examples.cu", line=line, what="nothing", before=before, after=before + "  //")
    check = partial(examples.SUBJECT.noticed, schedules=range(2))
    assert mutations.try_mutation(mutation, tmp_path, check).caught_by is None


def test_a_check_that_hangs_has_noticed_the_change(tmp_path: Path) -> None:
    (tmp_path / "examples.cu").write_text("first\n")
    mutation = mutations.Mutation(path="examples.cu", line=1, what="nonsense", before="first", after="second")

    def endless(folder: Path) -> None:
        assert (folder / "examples.cu").read_text() == "second\n"
        while True:
            pass

    caught = mutations.try_mutation(mutation, tmp_path, endless, seconds=1).caught_by
    assert caught == "it takes more than 1 seconds of CPU time"


def test_a_change_that_does_not_compile_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "examples.cu").write_text("first\n")
    mutation = mutations.Mutation(path="examples.cu", line=1, what="nonsense", before="first", after="second")
    with pytest.raises(RuntimeError, match="the check fails itself: CannotCompile"):
        mutations.try_mutation(mutation, tmp_path, partial(examples.SUBJECT.noticed, schedules=range(1)))


ADDRESS = """
import sys
from pathlib import Path
from offline.host import examples
from offline.host.device import Machine
machine = Machine.build(Path(sys.argv[1]), strict=False, to=Path(sys.argv[1]).parent)
for name, case in examples.SUBJECT.cases.items():
    with machine.device(schedule=3) as device:
        case(device)
print("all cases are right")
"""


def test_address_sanitizer_sees_arrays_on_the_stack_and_nothing_in_right_kernels(tmp_path: Path) -> None:
    text = examples.SOURCE.read_text()
    before, line = "y[threadIdx.x] = values[threadIdx.x];\n}", "kept[4 + threadIdx.x % 2] = values[threadIdx.x] * 0.0f;"
    for name, after in (
        ("right.cu", before),
        ("wrong.cu", f"float kept[4] = {{}};\n  {line}\n  {before[:-1]}  y[0] += kept[3];\n}}"),
    ):
        (tmp_path / name).write_text(text.replace(before, after))
        done = build.under_address_sanitizer(["-c", ADDRESS, str(tmp_path / name)])
        assert done.stdout == "all cases are right\n", done.stderr
        if name == "right.cu":
            assert "AddressSanitizer" not in done.stderr
        else:
            number = 1 + [each.strip() for each in (tmp_path / name).read_text().splitlines()].index(line)
            assert (
                "ERROR: AddressSanitizer: stack-buffer-overflow" in done.stderr and f"wrong.cu:{number}" in done.stderr
            )
