"""The functions of common/wgmma.cuh: on the host machine, as nvcc compiles them, and by NVIDIA's tables of layouts."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from offline import nvcc
from offline.compiled import compiled, programs
from offline.host import build, wgmma
from offline.host.device import Machine
from offline.host.wgmma import OPERANDS, SOURCE, Operands
from offline.in_flight import touched_in_flight

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
needs_nvcc = pytest.mark.skipif(bool(nvcc.why_not()), reason=nvcc.why_not() or "nvcc is there")

REGISTERS = "bfloat16, 64 x 64, registers x plain, 1"
SHARED = "bfloat16, 64 x 64, plain x plain, 1"
TWO_GROUPS = "bfloat16, 64 x 64, transposed x transposed, 2"


@pytest.fixture(scope="module")
def machine() -> Machine:
    return wgmma.build()


@pytest.mark.parametrize("name", OPERANDS)
def test_the_host_machine_multiplies_as_the_documentation_lays_out(machine: Machine, name: str) -> None:
    for schedule in range(4):
        with machine.device(schedule=schedule) as device:
            result, right = wgmma.run(device, OPERANDS[name])
        device.report.check()
        assert torch.equal(result, right), schedule


@cache
def text() -> str:
    return nvcc.ptx(SOURCE, "sm_90a")


@needs_nvcc
@pytest.mark.parametrize("name", OPERANDS)
def test_what_nvcc_makes_of_them_multiplies_the_same(machine: Machine, name: str) -> None:
    with machine.device() as device, compiled(device, programs(text(), SOURCE), SOURCE) as found:
        result, right = wgmma.run(device, OPERANDS[name])
    assert torch.equal(result, right) and not found


FAULTS = {
    "sums are used before their product has ended": (
        SHARED,
        "  wgmma_wait<1>(sums);\n",
        "",
        "register of a wgmma in flight",
    ),
    "a wait leaves one group too many": (SHARED, "wgmma_wait<0>(first)", "wgmma_wait<1>(first)", "in flight"),
    "products are in no group": (SHARED, "  wgmma_commit();\n  wgmma_wait<1>", "  wgmma_wait<1>", "in flight"),
    "nobody waits": (
        SHARED,
        "  wgmma_wait<0>(first);\n"
        "  for (int at = 0; at < N / 2; ++at) in_global_memory(p.sums)[place + at] -= 2.0f * first[at];\n",
        "",
        "wgmma in flight",
    ),
    "registers are written behind the fence": (
        SHARED,
        "#pragma unroll\n",
        "  sums[0] += 1.0f;\n#pragma unroll\n",
        "wgmma without a fence",
    ),
    "there is no fence": (SHARED, "    wgmma_fence(sums);\n", "", "wgmma without a fence"),
    "there is no fence for a left operand": (
        REGISTERS,
        "    wgmma_fence(sums, registers);\n",
        "",
        "wgmma without a fence",
    ),
    "a left operand changes while it is multiplied": (
        REGISTERS,
        "  wgmma_wait<1>(sums);\n",
        "  registers[1][2] = 0;\n  wgmma_wait<1>(sums);\n",
        "register of a wgmma in flight",
    ),
    "what was stored is not behind a proxy fence": (SHARED, "  proxy_fence();\n", "", "wgmma without a proxy fence"),
    "the fence comes before the stores": (
        SHARED,
        "  for (int at = threadIdx.x; at < Shared<N>::RIGHT",
        "  proxy_fence();\n  for (int at = threadIdx.x; at < Shared<N>::RIGHT",
        None,
    ),
    "others have not written yet": (
        SHARED,
        "  proxy_fence();\n  __syncthreads();\n",
        "  proxy_fence();\n",
        "uninitialised shared memory",
    ),
    "an operand changes while it is multiplied": (
        SHARED,
        "  wgmma_wait<1>(sums);\n",
        "  shared.right[threadIdx.x] = make_uint4(0, 0, 0, 0);\n  wgmma_wait<1>(sums);\n",
        "operand of a wgmma in flight",
    ),
    "an operand changes before all warpgroups have read it": (
        TWO_GROUPS,
        "  // all warpgroups have read what is written now\n  __syncthreads();\n",
        "",
        ("race in shared memory", "operand of a wgmma in flight"),
    ),
    "a warp does not multiply": (
        SHARED,
        "  wgmma_commit();\n  // a",
        "  if (threadIdx.x < 32) return;\n  // a",
        "deadlock",
    ),
    "threads multiply different operands": (
        SHARED,
        "wgmma_operand(shared.left[group])",
        "wgmma_operand(shared.left[group], threadIdx.x < 64 ? 1024 : 2048)",
        "wgmma",
    ),
    "an operand begins inside the pattern of the swizzle": (
        SHARED,
        "wgmma_operand(shared.left[group])",
        "wgmma_operand(shared.left[group] + 8)",
        "operand of wgmma",
    ),
    "an operand reaches past the end of shared memory": (
        SHARED,
        "wgmma_operand(shared.right, 1024,",
        "wgmma_operand(shared.right, 2048,",
        "out of bounds in shared memory",
    ),
}


def one_kind(source: str, operands: Operands) -> str:
    """The source with a kernel for these operands alone, which compiles sooner."""
    head, rest = source.split("template <typename Element, int N>\nint run(")
    exported = rest[rest.index('extern "C"') : rest.index("  return half")]
    kind = (operands.in_registers, operands.transposed_left, operands.transposed_right)
    arguments = ", ".join(["Bf16", str(operands.columns), *(str(each).lower() for each in kind)])
    return f"{head}\n}}  // namespace\n\n{exported}  return run<{arguments}>(p, groups);\n}}\n"


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_with_its_line(name: str, tmp_path: Path) -> None:
    case, before, after, kinds = FAULTS[name]
    source = SOURCE.read_text("utf-8")
    assert source.count(before) == 1
    changed = tmp_path / SOURCE.name
    changed.write_text(one_kind(source.replace(before, after), OPERANDS[case]))
    machine = wgmma.build(changed, tmp_path)
    found = set[str]()
    for schedule in range(6):
        with machine.device(schedule=schedule) as device:
            wgmma.run(device, OPERANDS[case])
        assert all(re.search(r"/wgmma\.cu:\d+$", fault.place.split(", called")[0]) for fault in device.report.faults)
        found |= device.report.kinds()
    if kinds is None:
        assert not found
    else:
        assert any(kind in each for each in found for kind in ([kinds] if isinstance(kinds, str) else kinds))


@needs_nvcc
@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        ("fence.proxy.async.shared::cta;", "wgmma reads what was stored without a fence"),
        ("wgmma.wait_group.sync.aligned 1;", "of a pending wgmma is touched"),
        ("wgmma.wait_group.sync.aligned 0;", "of a pending wgmma is touched"),
        ("bar.sync \t0;", "wgmma reads what was written without a barrier"),
    ],
)
def test_a_function_without_its_instruction_is_noticed(machine: Machine, instruction: str, said: str) -> None:
    assert instruction in text()
    kernels = programs(text().replace(instruction, ""), SOURCE)
    with machine.device() as device, compiled(device, kernels, SOURCE) as found:
        wgmma.run(device, OPERANDS[SHARED])
    assert any(said in each for each in found)


@needs_nvcc
def test_compiled_products_do_not_spill_and_run_while_their_threads_go_on() -> None:
    for listing in nvcc.listings(SOURCE, "sm_90a").values():
        assert listing.count("HGMMA.64x") == 5 and touched_in_flight(listing) == []
        assert not re.search(r"\b(LDL|STL)\b", listing)


def test_the_kernel_uses_every_function() -> None:
    declared = (nvcc.SOURCES / "common" / "wgmma.cuh").read_text("utf-8")
    names = {*re.findall(r"__forceinline__ [\w: ]+[\s*&]+(\w+)\(", declared)} - {"pin"}
    used = SOURCE.read_text("utf-8")
    assert {"wgmma", "wgmma_fence", "wgmma_commit", "wgmma_wait", "proxy_fence", "wgmma_operand"} <= names
    assert [name for name in sorted(names) if not re.search(rf"\b{name}(<.*>)?\(", used)] == []
