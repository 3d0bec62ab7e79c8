"""Copies into shared memory are fenced before wgmma reads them, with every release of Triton."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

from offline import aot, emulator  # noqa: E402
from offline.emulator import emulated  # noqa: E402
from offline.ptx.program import Program  # noqa: E402
from unmask_kernels._triton import fences  # noqa: E402
from unmask_kernels._triton.fences import FENCES_MISSING, fenced_jit  # noqa: E402
from unmask_kernels._triton.launch import OPTIONS  # noqa: E402
from unmask_kernels.capability import INTERPRETING  # noqa: E402

pytestmark = pytest.mark.skipif(INTERPRETING, reason="an interpreted kernel cannot be compiled")
missing = pytest.mark.skipif(not FENCES_MISSING, reason="this release of Triton places the fences itself")
SIZE, DEPTH = 64, 128


def _product_kernel(x_ptr, y_ptr, out_ptr, SIZE: tl.constexpr, DEPTH: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    row = tl.arange(0, SIZE)
    place = row[:, None] * DEPTH + row[None, :]
    product = tl.zeros((SIZE, SIZE), dtype=tl.float32)
    for start in range(0, DEPTH, SIZE):
        product = tl.dot(tl.load(x_ptr + place + start), tl.trans(tl.load(y_ptr + place + start)), product)
    tl.store(out_ptr + row[:, None] * SIZE + row[None, :], product)


OURS = fenced_jit()(_product_kernel)
OTHERS = triton.jit(_product_kernel)


def faults(kernel: Any) -> Counter[str]:
    """The faults of a run on the emulator, by what they say of an instruction."""
    x, y = torch.randn(2, SIZE, DEPTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = torch.zeros(SIZE, SIZE)
    with emulated(90) as found:
        kernel[(1,)](x, y, out, SIZE=SIZE, DEPTH=DEPTH, num_warps=4, num_stages=2, **OPTIONS)
    torch.testing.assert_close(out, x.float() @ y.float().T)
    said: Counter[str] = Counter()
    for text, count in found.items():
        said[text.split(":")[0]] += count
    return said


def test_a_kernel_of_ours_reads_what_was_copied_behind_a_fence() -> None:
    assert not faults(OURS)


@missing
def test_the_fences_that_this_release_leaves_out_are_missed() -> None:
    assert faults(OTHERS)["wgmma reads what was stored without a fence"] > 0


def test_a_fence_that_is_taken_away_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Program.read
    bare = SimpleNamespace(read=lambda text: read(text.replace(f"\t{fences._FENCE}", "")))
    monkeypatch.setattr(emulator, "Program", bare)
    assert faults(OURS)["wgmma reads what was stored without a fence"] > 0


def test_a_wait_for_a_copy_without_a_fence_is_counted_in_the_text_too() -> None:
    wait, fence, product = "cp.async.wait_group 0;\n", "fence.proxy.async.shared::cta;\n", "wgmma.mma_async.sync ...;\n"
    assert aot.unfenced_waits(wait + "bar.sync 0;\n" + fence + product + product + wait) == 0
    assert aot.unfenced_waits(fence + wait + product + product + wait + wait + product) == 2


def test_a_fence_follows_each_wait_for_a_copy_of_a_kernel_that_multiplies() -> None:
    waits = "\tcp.async.wait_group \t1;\n\tbar.sync \t0;\n  cp.async.wait_all;\n"
    assert fences.with_fences(waits) == waits
    fence = "fence.proxy.async.shared::cta;"
    product = "\twgmma.mma_async.sync ...;\n"
    assert fences.with_fences(waits + product) == (
        f"\tcp.async.wait_group \t1;\n\t{fence}\n\tbar.sync \t0;\n  cp.async.wait_all;\n  {fence}\n{product}"
    )


@pytest.mark.parametrize(
    ("version", "numbers"), [("3.6.0", (3, 6, 0)), ("3.7.1+git1a2b3c4", (3, 7, 1)), ("3.10", (3, 10)), ("4", (4,))]
)
def test_a_version_is_compared_by_its_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert fences._version(version) == numbers


@pytest.mark.skipif(FENCES_MISSING, reason="this release of Triton leaves fences out")
def test_where_triton_places_the_fences_our_kernels_are_its_own() -> None:
    assert type(OURS) is type(OTHERS)
    assert fences.compiler_of(OURS) is triton.compile


class _Gpu:
    """What Triton asks a driver before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[[Any], Any]:
    """Compile a kernel as its first launch on an H100 does, with an empty cache."""
    monkeypatch.setattr(triton.runtime.driver, "_active", _Gpu())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    x, out = torch.empty(0, dtype=torch.bfloat16), torch.empty(0)

    def compile(kernel: Any) -> Any:
        kernel.device_caches.clear()
        return kernel.warmup(x, x, out, SIZE=SIZE, DEPTH=DEPTH, num_warps=4, num_stages=2, grid=(1,), **OPTIONS)

    return compile


@missing
def test_a_launch_compiles_fences_into_our_kernels_and_leaves_others_alone(compiled: Callable[[Any], Any]) -> None:
    others, ours = compiled(OTHERS), compiled(OURS)
    assert fences.with_fences(others.asm["ptx"]) == ours.asm["ptx"] != others.asm["ptx"]
    # neither finds the other in the cache
    assert ours.hash != others.hash
    assert triton.knobs.runtime.add_stages_inspection_hook is None


@missing
def test_a_hook_that_was_there_before_is_called_and_stays(
    compiled: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def before(backend: Any = None, stages: Any = None, *rest: Any) -> tuple[str, str]:
        seen.extend(stages or ())
        return "", ""

    monkeypatch.setattr(triton.knobs.runtime, "add_stages_inspection_hook", before)
    assert fences._FENCE in compiled(OURS).asm["ptx"]
    assert "ptx" in seen and triton.knobs.runtime.add_stages_inspection_hook is before


def test_what_another_thread_compiles_meanwhile_is_left_alone() -> None:
    hook = fences._Hook(None)
    stages = {"ptx": lambda source, metadata: "wgmma.mma_async cp.async"}
    theirs = dict(stages)
    thread = threading.Thread(target=hook, args=(None, theirs, None, None, 90))
    thread.start()
    thread.join()
    assert theirs == stages
    hook(None, theirs, None, None, 90)
    assert theirs != stages
