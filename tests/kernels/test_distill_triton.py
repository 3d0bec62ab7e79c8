"""The Triton kernels of distill: which of them run, and what the compiler makes of them for GPUs that are not here."""

from __future__ import annotations

from functools import partial
from unittest import mock

import pytest
import torch

from offline import aot, cases, recorder
from unmask_kernels import BackendUnavailable
from unmask_kernels.capability import HAS_TRITON, INTERPRETING
from unmask_kernels.distill import FAMILY
from unmask_kernels.testing import contracts
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.distill import plain_distill, reference_distill, relation_case, run_distill, score_case
from unmask_kernels.testing.inputs import Case, run

compiled = pytest.mark.skipif(
    not HAS_TRITON or INTERPRETING, reason="needs the package triton, in a process where kernels are not interpreted"
)
BERT = score_case("bert", [600, 100], heads=12, head_dim=64, teacher_dim=64)
ours = partial(run_distill, backend="triton")


@pytest.mark.triton
@pytest.mark.skipif(not INTERPRETING, reason="on a GPU test_distill.py has documents that are long enough")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("share", [1.0, 1e-4])
def test_gram_matrices_and_tiles_share_the_documents(share: float, dtype: torch.dtype) -> None:
    """The second document's student is near its teacher: its heads are left to the tiles."""
    lengths = [70, 66, 0, 9]
    inputs = score_case("both", lengths, head_dim=20, teacher_dim=20).make(dtype)
    a = dict(inputs.arguments)
    for name in ("q", "k"):
        own = a[f"student_{name}"][70:136]
        a[f"student_{name}"][70:136] = own.lerp(a[f"teacher_{name}"][70:136], 1.0 - share**0.5)
    inputs = inputs.change(**a)
    truth, plain = run(reference_distill, inputs.double()), run(plain_distill, inputs)
    module = FAMILY.module("triton")
    with mock.patch.object(module, "GRAM_FROM", 64), contracts.poisoned_memory():
        compare(run(ours, inputs), plain, truth)


def check(case: Case, dtype: torch.dtype, architecture: int) -> list[str]:
    names = []
    for launch in recorder.launches(ours, case.make(dtype), architecture):
        kernel = aot.build(launch, architecture)
        names.append(kernel.name)
        assert (kernel.spills, kernel.stack_bytes) == (0, 0), kernel
        assert not {"RED", "ATOM", "ATOMG"} & kernel.instructions.keys(), kernel
        assert (kernel.touched, kernel.unfenced) == ((), 0), kernel
        assert kernel.shared_bytes <= 163 * 1024, kernel
        if dtype != torch.float32 and launch.name not in ("hidden_kernel", "prediction_kernel"):
            assert kernel.tensor_core_instructions > 0, kernel
    return names


@compiled
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_gram_matrices_stay_in_registers_and_use_tensor_cores(architecture: int) -> None:
    assert check(BERT, torch.bfloat16, architecture) == ["gram_kernel", "tiles_kernel"]


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("case", cases.CASES["distill"], ids=str)
def test_every_kernel_stays_in_registers(case: Case, dtype: torch.dtype, architecture: int) -> None:
    check(case, dtype, architecture)


@compiled
@pytest.mark.parametrize(
    ("case", "names"),
    [
        (score_case("short", [200, 256], head_dim=64), ["tiles_kernel"]),
        (score_case("band", [600], causal=True), ["tiles_kernel"]),
        (score_case("wide", [600], head_dim=96), ["tiles_kernel"]),
        (score_case("long", [257]), ["gram_kernel", "tiles_kernel"]),
        (relation_case("long", [257]), ["rows_kernel", "columns_kernel"]),
    ],
    ids=str,
)
def test_the_launches_follow_the_static_bounds(case: Case, names: list[str]) -> None:
    assert [launch.name for launch in recorder.launches(ours, case.make(torch.bfloat16))] == names


@compiled
def test_a_kernel_serves_every_batch() -> None:
    other = score_case("other", [300, 300, 28], heads=12, head_dim=64, teacher_dim=64)
    one, two = (recorder.launches(ours, case.make(torch.bfloat16)) for case in (BERT, other))
    for first, second in zip(one, two, strict=True):
        assert (first.signature, first.constants, first.aligned) == (second.signature, second.constants, second.aligned)


@pytest.mark.skipif(INTERPRETING, reason="the interpreter runs on a CPU")
def test_triton_says_what_it_cannot_run() -> None:
    wide = score_case("wide", [5], heads=1, teacher_heads=6, teacher_dim=32).make(torch.float64)
    with pytest.raises(
        BackendUnavailable, match=r"needs a CUDA tensor, got cpu.*fp32, got float64; heads, or groups of"
    ):
        run_distill(backend="triton", **wide.arguments)
