"""The kernels in CUDA C++ compile without a warning for both architectures, and the code is what we want."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.nvcc import ARCHITECTURES, SOURCES, Compiled, build, build_all, loops, release, table, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "everything is there")


@pytest.fixture(scope="module")
def kernels() -> list[Compiled]:
    """Compile every kernel once for both architectures; warnings are errors."""
    return build_all()


def test_every_kernel_of_every_file_is_compiled(kernels: list[Compiled]) -> None:
    assert {(kernel.file, kernel.architecture) for kernel in kernels} == {
        (file.name, architecture) for file in SOURCES.rglob("*.cu") for architecture in ARCHITECTURES
    }
    names = {kernel.name for kernel in kernels if kernel.file == "optimizer.cu"}
    rules = ("ADAMW", "STABLE_ADAMW", "LAMB")
    assert names == {"norm_kernel", "rows_kernel", *(f"update_kernel<{rule}>" for rule in rules)}


def test_no_kernel_spills_or_uses_local_memory(kernels: list[Compiled]) -> None:
    for kernel in kernels:
        assert (kernel.spills, kernel.stack_bytes) == (0, 0), kernel
        # 1024 bytes belong to the system
        assert kernel.shared_bytes in (0, 1024), kernel


def test_three_blocks_of_the_optimizer_fit_on_a_multiprocessor(kernels: list[Compiled]) -> None:
    for kernel in kernels:
        if kernel.file == "optimizer.cu":
            # registers are given to a warp in units of 8 a thread
            assert 3 * 256 * (-(-kernel.registers // 8) * 8) <= 65_536, kernel


@pytest.mark.parametrize(
    ("name", "loads", "stores"),
    [
        # two vectors of g, of g m v w, of g m v; and what is written: m v w, m v, w
        ("norm_kernel", {2}, {0}),
        ("update_kernel<ADAMW>", {8}, {6}),
        ("update_kernel<LAMB>", {8, 6}, {4, 2}),
        ("update_kernel<STABLE_ADAMW>", {6}, {4, 2}),
    ],
)
def test_aligned_tensors_in_fp32_are_accessed_16_bytes_at_a_time(
    name: str, loads: set[int], stores: set[int], kernels: list[Compiled]
) -> None:
    for kernel in kernels:
        if kernel.name == name:
            wide = [accesses for _, accesses in kernel.loops if accesses["LDG", 16]]
            # a loop with bf16 or fp16 gradients loads them 8 bytes at a time
            pure = [accesses for accesses in wide if not accesses["LDG", 8]]
            assert {accesses["LDG", 16] for accesses in pure} == loads, kernel
            assert {accesses["STG", 16] for accesses in pure} == stores, kernel
            assert not any(accesses[kind, 4] for accesses in wide for kind in ("LDG", "STG", "LD", "ST"))


def test_no_element_is_accessed_by_a_generic_address(kernels: list[Compiled]) -> None:
    """The compiler must know that tensors lie in global memory; only loops over rows and counters may not tell it."""
    for kernel in kernels:
        for count, accesses in kernel.loops:
            if count > 60:
                assert not any(kind in ("LD", "ST") for kind, _ in accesses), kernel


def test_the_tables_of_the_documentation_have_every_kernel(kernels: list[Compiled]) -> None:
    lines = list(table(kernels))
    assert len(lines) == 2 + len(kernels)
    assert all(kernel.name in "\n".join(lines) for kernel in kernels)
    assert any("LDG of 16 B" in line for line in loops(kernels))


def test_the_table_of_the_page_is_up_to_date(kernels: list[Compiled]) -> None:
    """After a change: PYTHONPATH=tests python -m offline.nvcc."""
    if release() != "13.0":
        pytest.skip(f"the table is of nvcc 13.0, here is {release()}")
    page = (SOURCES / "README.md").read_text("utf-8")
    missing = [line for line in table([one for one in kernels if one.file == "optimizer.cu"]) if line not in page]
    assert missing == []


def test_a_warning_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "careless.cu"
    file.write_text("__global__ void careless_kernel(int* out) { int unused = 0; *out = 1; }\n")
    with pytest.raises(RuntimeError, match=r"careless\.cu for sm_80 failed:\n[^$]*unused"):
        build(file, "sm_80")


def test_local_memory_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "greedy.cu"
    file.write_text(
        "__global__ void greedy_kernel(float* out, int at) {\n"
        "  float kept[64];\n"
        "  for (int i = 0; i < 64; ++i) kept[i] = out[i];\n"
        "  for (int i = 0; i < 64; ++i) out[i] = kept[(i * at) % 64];\n"
        "}\n"
    )
    [kernel] = build(file, "sm_90a")
    assert kernel.name == "greedy_kernel"
    assert kernel.stack_bytes >= 256 and kernel.spills > 0
