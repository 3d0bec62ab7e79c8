"""attention's Triton kernels compiled for GPUs that are not here: nothing spills, tensor cores in every kernel."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from offline import aot, cases, recorder
from unmask_kernels import attention
from unmask_kernels.capability import HAS_TRITON, INTERPRETING
from unmask_kernels.testing.attention import attention_case
from unmask_kernels.testing.inputs import Case

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="package triton is not installed"),
    pytest.mark.skipif(INTERPRETING, reason="an interpreted kernel cannot be compiled"),
]

FORWARD, SHORT, FUSED = "forward_kernel", "short_backward_kernel", "fused_backward_kernel"
TWO = ["grad_query_kernel", "grad_key_value_kernel"]
DRAW = "draw_bitmask_kernel"
PRODUCTS = {FORWARD: 2, FUSED: 5, TWO[0]: 3, TWO[1]: 4}


def launched(case: Case, dtype: torch.dtype, architecture: int = 90, *, form: str = "") -> list[recorder.Launch]:
    with cases.FORMS["attention"][form]():
        return recorder.launches(partial(attention, backend="triton"), case.make(dtype), architecture)


def width(launch: recorder.Launch) -> int:
    """Bytes of a load in 16 bits: 16 where every head begins at a multiple of that, 4 for heads of 26 elements."""
    return 2 * math.gcd(launch.constants["TILE"].head_dim, 8)


def check(launch: recorder.Launch, architecture: int) -> aot.Built:
    kernel = aot.build(launch, architecture)
    assert kernel.spills == kernel.stack_bytes == 0, kernel
    assert not kernel.touched and kernel.unfenced == 0, kernel
    # an H100's program has 227 KiB of shared memory, an A100's 163
    assert kernel.shared_bytes <= (227 if architecture == 90 else 163) * 1024, kernel
    if launch.name == DRAW:
        assert kernel.shared_bytes == 0, kernel
    else:
        assert kernel.instructions["HGMMA" if architecture == 90 else "HMMA"] > 0, kernel
        assert kernel.wide_accesses > 0 or width(launch) < 16, kernel
    if architecture == 80 and launch.name in PRODUCTS:
        # an HMMA forms 16 x 8 sums of 16 products: as many as the tile needs, so that no warp repeats another's. But dq
        # has a row for each element of a head, four warps take 64 of them, and for 32 two warps do what the others do
        tile = launch.constants["TILE"]
        elements = tile.rows * tile.columns * tile.block_k
        warps = launch.options["num_warps"]
        products = PRODUCTS[launch.name] + (launch.name == FUSED and 16 * warps > tile.block_k)
        assert products * elements // (16 * 8 * 16 * warps) in [loop["HMMA"] for loop in kernel.loops], kernel
    if launch.name in (FUSED, TWO[1]) and launch.signature["qkv_ptr"] != "*fp32":
        # a round copies q and dout, 16 bytes at a time; lse and delta, each element by one thread or two; the bitmask
        tile, threads = launch.constants["TILE"], 32 * launch.options["num_warps"]
        rows = 2 * max(1, tile.rows * tile.block_k * 2 // (width(launch) * threads))
        words = 0 if "bitmask_ptr" in launch.constants else 4
        assert max(loop["LDGSTS"] for loop in kernel.loops) <= rows + 4 + words, kernel
    # Deterministic sums: nothing is added up by atomics. One of them takes the number of an item.
    assert not {"RED", "ATOM"} & kernel.instructions.keys(), kernel
    assert kernel.instructions["ATOMG"] == (launch.name in (FORWARD, FUSED, *TWO)), kernel
    return kernel


@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_the_kernels_of_bert_stay_in_registers_and_use_tensor_cores(architecture: int) -> None:
    for launch in launched(attention_case("bert", [300], heads=12), torch.bfloat16, architecture):
        check(launch, architecture)


def test_heads_that_a_tile_pads_stay_in_registers_and_use_tensor_cores() -> None:
    for launch in launched(attention_case("tiny", [300], heads=12, head_dim=26, p=0.1), torch.bfloat16):
        check(launch, 90)


def test_the_fused_backward_keeps_its_sums_in_the_order_of_registers() -> None:
    for launch in launched(attention_case("bert", [300], heads=12), torch.bfloat16):
        if launch.name == FUSED:
            loop = max(aot.build(launch, 90).loops, key=lambda loop: loop["HGMMA"])
            assert loop["HGMMA"] > 0 and loop["LDG"] > 0 and loop["STG"] > 0 and loop["STS"] == 0, loop
            return
    raise AssertionError("the fused backward was not launched")


@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_a_bitmask_of_dropout_stays_in_registers_and_crosses_no_shared_memory(architecture: int) -> None:
    stores = {}
    for form in ("", "-drawn"):
        for launch in launched(attention_case("bert", [300], heads=12, p=0.1), torch.bfloat16, architecture, form=form):
            stores[launch.name + form] = check(launch, architecture).instructions["STS"]
    assert all(stores[kernel] < stores[f"{kernel}-drawn"] for kernel in (FORWARD, SHORT, FUSED)), stores


def test_the_next_short_document_is_fetched_while_other_programs_compute() -> None:
    short = launched(attention_case("bert", [128], heads=12), torch.bfloat16)[1:]
    programs = {64: 3, 128: 1}
    for launch in short:
        kernel, wanted = check(launch, 90), programs.pop(launch.constants["TILE"].rows)
        # q, k, v, dout and lse of the next document
        assert kernel.loops[0]["LDGSTS"] > 0, kernel
        assert wanted * 32 * launch.options["num_warps"] * kernel.registers <= 65536, kernel
        # a multiprocessor of an H100 has 228 KiB, and keeps one for each program
        assert wanted * (kernel.shared_bytes + 1024) <= 228 * 1024, kernel
    assert not programs


@pytest.mark.slow
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", cases.FORMS["attention"])
@pytest.mark.parametrize("case", cases.CASES["attention"], ids=str)
def test_every_kernel_stays_in_registers_and_uses_tensor_cores(
    case: Case, form: str, dtype: torch.dtype, architecture: int
) -> None:
    for launch in launched(case, dtype, architecture, form=form):
        check(launch, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [32, 128])
def test_fp32_compiles(head_dim: int) -> None:
    for launch in launched(attention_case("fp32", [600], head_dim=head_dim, p=0.1), torch.float32):
        assert aot.build(launch, 90).tensor_core_instructions == 0


@pytest.mark.parametrize(
    ("lengths", "head_dim", "kernels"),
    [
        ([64, 3], 64, [FORWARD, SHORT]),
        ([128, 3], 64, [FORWARD, SHORT, SHORT]),
        ([512, 3], 64, [FORWARD, SHORT, SHORT, FUSED]),
        ([513, 3], 64, [FORWARD, SHORT, SHORT, FUSED, *TWO]),
        ([65, 3], 128, [FORWARD, SHORT, *TWO]),
    ],
)
def test_the_bound_on_lengths_decides_what_is_launched(lengths: list[int], head_dim: int, kernels: list[str]) -> None:
    case = attention_case("launches", lengths, head_dim=head_dim)
    assert [launch.name for launch in launched(case, torch.bfloat16)] == kernels


@pytest.mark.parametrize(
    ("lengths", "head_dim", "kernels"),
    [
        ([64, 3], 64, [DRAW, FORWARD, SHORT]),
        ([512, 3], 64, [DRAW, FORWARD, SHORT, FUSED]),
        ([513, 3], 64, [DRAW, FORWARD, FORWARD, SHORT, FUSED, *TWO]),
        ([513, 3], 128, [DRAW, FORWARD, FORWARD, SHORT, *[kernel for kernel in TWO for _ in "ab"]]),
    ],
)
def test_bits_are_drawn_once_and_documents_too_long_for_them_get_launches_of_their_own(
    lengths: list[int], head_dim: int, kernels: list[str]
) -> None:
    found = launched(attention_case("bitmask", lengths, head_dim=head_dim, p=0.1), torch.bfloat16)
    assert [launch.name for launch in found] == kernels
    assert launched(attention_case("none", lengths, head_dim=head_dim), torch.bfloat16)[0].name == FORWARD


def test_numbers_that_change_from_batch_to_batch_or_layer_to_layer_are_not_compiled_in() -> None:
    numbers = {"tokens", "slots", "left", "right", "threshold", "scratch_rows"}
    numbers |= {"upper", "lower", "lower_short", "short_up_to"}
    case = attention_case("numbers", [592, 16], p=0.1, window=1)
    for launch in launched(case, torch.bfloat16) + launched(case, torch.bfloat16, form="-drawn"):
        assert not numbers & {*launch.constants, *launch.aligned}, launch
        assert launch.signature["key_ptr"] == "*i64" and "key_ptr" not in launch.aligned
