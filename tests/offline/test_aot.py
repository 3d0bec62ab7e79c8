"""Triton kernels compile for sm_80 and sm_90 without a GPU; nothing spills, and loads are wide."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from offline import aot, cases, recorder
from unmask_kernels import FAMILIES, gelu, layer_norm
from unmask_kernels.capability import HAS_TRITON, INTERPRETING
from unmask_kernels.testing.gelu import gelu_case
from unmask_kernels.testing.inputs import Case
from unmask_kernels.testing.layer_norm import layer_norm_case
from unmask_kernels.verify.subjects import SUBJECTS

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="package triton is not installed"),
    pytest.mark.skipif(INTERPRETING, reason="an interpreted kernel cannot be compiled"),
]


def check(operation: Callable[..., Any], case: Case, dtype: torch.dtype, architecture: int) -> None:
    launches = recorder.launches(partial(operation, backend="triton"), case.make(dtype))
    kernels = {launch.name: aot.build(launch, architecture) for launch in launches}
    assert [*kernels] == ["_forward_kernel", "_backward_kernel", "_sum_kernel"][: 3 if operation is layer_norm else 2]
    for kernel in kernels.values():
        assert kernel.spills == 0, kernel
        assert kernel.stack_bytes == 0, kernel
        assert kernel.wide_accesses > 0, kernel
        # no atomics: sums are deterministic
        assert not {"RED", "ATOM", "ATOMG"} & kernel.instructions.keys(), kernel


@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("width", [312, 768])
def test_layer_norm_keeps_its_rows_in_registers(width: int, architecture: int) -> None:
    check(layer_norm, layer_norm_case(64, width, p=0.1, x_bias=True), torch.bfloat16, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        *cases.CASES["layer_norm"],
        layer_norm_case(64, 4096, p=0.1, x_bias=True),
    ],
    ids=str,
)
def test_layer_norm_keeps_its_rows_in_registers_everywhere(case: Case, dtype: torch.dtype, architecture: int) -> None:
    check(layer_norm, case, dtype, architecture)


@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("activation", ["gelu", "geglu"])
def test_gelu_keeps_its_tile_in_registers(activation: str, architecture: int) -> None:
    check(gelu, gelu_case(64, 3072, activation=activation), torch.bfloat16, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("case", cases.CASES["gelu"], ids=str)
def test_gelu_keeps_its_tile_in_registers_everywhere(case: Case, dtype: torch.dtype, architecture: int) -> None:
    check(gelu, case, dtype, architecture)


def test_programs_of_a_persistent_grid_are_on_their_multiprocessor_at_once() -> None:
    norm = FAMILIES["layer_norm"].module("triton")
    gelus = FAMILIES["gelu"].module("triton")._PROGRAMS_PER_MULTIPROCESSOR

    def of_norm(launch: recorder.Launch) -> int:
        tile = launch.constants["TILE"]
        return int(norm.warps_at_once(tile, torch.bfloat16, "x_bias_ptr" not in launch.constants) // tile.warps)

    calls: list[tuple[Callable[..., Any], Case, Callable[[recorder.Launch], int]]] = [
        (layer_norm, layer_norm_case(64, 768, p=0.1), of_norm),
        (layer_norm, layer_norm_case(64, 768, p=0.1, x_bias=True), of_norm),
        (layer_norm, layer_norm_case(64, 1024, p=0.1, x_bias=True), of_norm),
        (gelu, gelu_case(64, 3072), lambda _: gelus["gelu"]),
        (gelu, gelu_case(64, 1152, activation="geglu"), lambda _: gelus["geglu"]),
    ]
    for operation, case, programs_of in calls:
        _, backward, *_ = recorder.launches(partial(operation, backend="triton"), case.make(torch.bfloat16))
        built, programs = aot.build(backward, 90), programs_of(backward)
        # a warp gets registers in steps of 8 for each of its 32 threads; a multiprocessor has 65,536
        registers = 32 * -(-built.registers // 8) * 8 * backward.options["num_warps"]
        assert programs * registers <= 65536, (case, programs, registers)
        # a multiprocessor of an A100 has 164 KiB of shared memory, and each program takes 1 KiB more than it asks for
        assert programs * (built.shared_bytes + 1024) <= 164 * 1024, (case, programs, built.shared_bytes)


def test_a_launch_is_recorded_as_triton_would_specialise_it() -> None:
    forward, *_ = recorder.launches(
        partial(layer_norm, backend="triton"), layer_norm_case(64, 768).make(torch.bfloat16)
    )
    assert forward.signature["x_ptr"] == "*bf16"
    assert forward.signature["rows"] == "i32"
    assert forward.constants["key_ptr"] is None
    assert forward.constants["COLS"] == 768
    assert "x_ptr" in forward.aligned
    # the number of rows changes from batch to batch, so the code must not depend on its divisibility
    assert "rows" not in forward.aligned
    assert forward.options == {"num_warps": 4, "enable_fp_fusion": True}


def launches_of(family: str, case: Case) -> list[recorder.Launch]:
    return recorder.launches(partial(SUBJECTS[family].function, backend="triton"), case.make(torch.bfloat16))


@pytest.mark.parametrize("family", cases.CASES)
def test_every_launch_says_that_a_product_and_its_sum_are_one_instruction(family: str) -> None:
    # Triton 3.9 warns that 3.10 changes the default
    launches = launches_of(family, cases.CASES[family][0])
    assert launches and all(launch.options["enable_fp_fusion"] is True for launch in launches)


@pytest.mark.parametrize("family", cases.CASES)
def test_no_number_of_a_call_is_compiled_in(family: str) -> None:
    # otherwise Triton compiles again, in the middle of a training, when a count is 1 or its divisibility by 16 changes
    for case in cases.CASES[family][:2]:
        for launch in launches_of(family, case):
            for parameter in launch.kernel.params:
                value = launch.constants.get(parameter.name)
                number = launch.signature[parameter.name] in ("i32", "i64") or value is not None
                assert parameter.is_constexpr or parameter.do_not_specialize or not number, parameter.name


def test_a_key_is_not_compiled_in_by_its_place_in_the_table_of_keys() -> None:
    inputs = layer_norm_case(64, 768, p=0.1).make(torch.bfloat16)
    for launch in recorder.launches(partial(layer_norm, backend="triton"), inputs)[:2]:
        assert launch.signature["key_ptr"] == "*i64"
        assert "key_ptr" not in launch.aligned and "row_keys_ptr" in launch.aligned


def test_tables_of_two_releases_are_one_with_both_numbers_where_they_differ() -> None:
    older = ["| kernel | case | dtype | arch | warps | registers |", "| forward | k64 | bf16 | sm_90 | 8 | 126 |"]
    newer = [older[0], older[1].replace("126", "128")]
    assert [*aot.beside(older, newer)] == [older[0], "| forward | k64 | bf16 | sm_90 | 8 | 126 / 128 |"]
    with pytest.raises(ValueError, match="are of two kernels"):
        [*aot.beside(older, [older[0], newer[1].replace("k64", "k32")])]
    with pytest.raises(ValueError, match="shorter"):
        [*aot.beside(older, older[:1])]


def test_a_word_selects_the_lines_whose_names_contain_it() -> None:
    lines = [*aot.table("layer_norm", "64x312-p10 bfloat16 sm_90")][2:]
    assert lines and all(
        re.match(r"\| (forward|backward|sum) \| \S*64x312-p10\S* \| bfloat16 \| sm_90 \|", line) for line in lines
    )
