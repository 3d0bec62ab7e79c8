"""linear_gelu's Triton product: every tile is visited once, and what the compiler makes of it for GPUs not here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from offline import aot, cases, recorder
from unmask_kernels import capability, linear_gelu
from unmask_kernels.capability import HAS_TRITON, INTERPRETING
from unmask_kernels.linear_gelu import FAMILY, reference
from unmask_kernels.testing import contracts
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import Case, run
from unmask_kernels.testing.linear_gelu import linear_gelu_case

BERT = linear_gelu_case(64, 768, 3072)
MODERN = linear_gelu_case(64, 768, 1152, activation="geglu", bias=False)

compiled = pytest.mark.skipif(
    not HAS_TRITON or INTERPRETING, reason="needs the package triton, in a process where kernels are not interpreted"
)


def ours(**arguments: Any) -> Tensor:
    return linear_gelu(backend="triton", **arguments)


@pytest.mark.triton
@pytest.mark.skipif(not INTERPRETING, reason="on a GPU test_persistent_triton.py has few programs for many tiles")
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("programs", [4, 1000])
def test_tiles_in_groups_are_each_visited_once(programs: int, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # 5 tiles of rows, two groups of two and one of one, by 3 tiles of columns
    inputs = linear_gelu_case(5 * 16 - 5, 24, 45, activation=activation).make(torch.float32)
    truth, plain = run(reference.linear_gelu, inputs.double()), run(reference.linear_gelu, inputs)
    module = FAMILY.module("triton")
    columns = 32 if activation == "swiglu" else 16
    monkeypatch.setattr(module, "_tile", lambda x, call: module.Tile(16, columns, 32, 4, 1, programs=1, group=2))
    monkeypatch.setattr(module, "persistent_programs", lambda x, tiles, limit: min(tiles, programs))
    with contracts.poisoned_memory():
        compare(run(ours, inputs), plain, truth)


@pytest.mark.triton
@pytest.mark.skipif(not INTERPRETING, reason="on a GPU the library writes the product in fp32")
def test_the_gradient_of_an_fp32_weight_has_more_digits_than_16_bits_hold() -> None:
    dweight = run(ours, linear_gelu_case(40, 24, 45).make(torch.bfloat16))["dweight"]
    assert float((dweight != dweight.bfloat16().float()).double().mean()) > 0.9


def check(case: Case, dtype: torch.dtype, architecture: int) -> None:
    launches = recorder.launches(ours, case.make(dtype), architecture)
    assert [launch.name for launch in launches] == ["_forward_kernel", "_backward_kernel"]
    kernel = aot.build(launches[0], architecture)
    assert kernel.spills == kernel.stack_bytes == 0, kernel
    assert not kernel.touched and kernel.unfenced == 0, kernel
    # fp32 is multiplied as fp32
    unit = "FFMA" if dtype == torch.float32 else "HGMMA" if architecture == 90 else "HMMA"
    assert kernel.instructions[unit] > 0, kernel
    assert kernel.wide_accesses > 0, kernel
    # Deterministic: no atomics in any form.
    assert not {"RED", "ATOM", "ATOMG"} & kernel.instructions.keys(), kernel
    # the programs of a multiprocessor share its memory, 228 KiB on an H100 and 164 on an A100, of which the system
    # takes one for each, and its registers
    with mock.patch.object(capability, "architecture", return_value=f"sm_{architecture}"):
        call = FAMILY.example("cuda", f"sm_{architecture}", dtype)
        programs = FAMILY.module("triton")._tile(torch.empty(0, dtype=dtype), call).programs
    assert programs * (kernel.shared_bytes + 1024) <= (228 if architecture == 90 else 164) * 1024, kernel
    registers = 32 * -(-kernel.registers // 8) * 8 * launches[0].options["num_warps"]
    assert programs * registers <= 65536, kernel


@compiled
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("case", [BERT, MODERN], ids=str)
def test_tiles_stay_in_registers_and_use_tensor_cores(case: Case, architecture: int) -> None:
    check(case, torch.bfloat16, architecture)


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("case", cases.CASES["linear_gelu"], ids=str)
def test_tiles_of_every_shape_do(case: Case, dtype: torch.dtype, architecture: int) -> None:
    check(case, dtype, architecture)


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_widths_without_alignment_compile(architecture: int) -> None:
    launches = recorder.launches(ours, linear_gelu_case(9, 13, 7).make(torch.bfloat16), architecture)
    assert aot.build(launches[0], architecture).tensor_core_instructions > 0


@compiled
def test_a_kernel_serves_every_number_of_rows() -> None:
    one, two = (recorder.launches(ours, linear_gelu_case(rows, 768, 3072).make(torch.bfloat16))[0] for rows in (64, 1))
    assert (one.signature, one.constants, one.aligned) == (two.signature, two.constants, two.aligned)


@compiled
def test_without_gradients_the_product_is_not_written() -> None:
    def evaluated(**arguments: Any) -> Tensor:
        with torch.no_grad():
            return ours(**arguments)

    launches = recorder.launches(_joined(evaluated), BERT.make(torch.bfloat16))
    assert [launch.name for launch in launches] == ["_forward_kernel"]
    assert launches[0].constants["z_ptr"] is None


def _joined(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The result of `function`, which has no gradient, joined to x so that there is something to differentiate."""
    return lambda **arguments: (
        function(**arguments)
        + sum(arguments[name].sum() * 0 for name in ("x", "weight", "bias") if arguments[name] is not None)
    )
