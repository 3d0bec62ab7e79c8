"""The Triton kernels of mlm_loss compiled for GPUs that are not here: nothing spills, loads are wide, no atomics."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from offline import aot, cases, recorder
from unmask_kernels import mlm_loss
from unmask_kernels.capability import HAS_TRITON, INTERPRETING
from unmask_kernels.testing.inputs import Case
from unmask_kernels.testing.mlm_loss import mlm_loss_case

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="package triton is not installed"),
    pytest.mark.skipif(INTERPRETING, reason="an interpreted kernel cannot be compiled"),
]

BERT = mlm_loss_case("bert", tokens=40, width=8, vocabulary=30522, masked=33)


def loss(**arguments: Any) -> Tensor:
    return mlm_loss(backend="triton", **arguments).loss_sum


def check(case: Case, dtype: torch.dtype, architecture: int) -> None:
    launches = recorder.launches(loss, case.make(dtype))
    assert [launch.name for launch in launches] == ["_statistics_kernel", "_gradient_kernel"]
    for launch in launches:
        kernel = aot.build(launch, architecture)
        assert (kernel.spills, kernel.stack_bytes) == (0, 0), kernel
        # two loads of 16 bytes a thread at least are under way, whatever V is
        assert kernel.wide_accesses >= 2, kernel
        assert not {"RED", "ATOM", "ATOMG"} & kernel.instructions.keys(), kernel
        # 2,048 threads of an SM, in programs of 256 and 128, want 32 registers; half of them hide the latency
        assert kernel.registers <= 64, kernel


@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_a_ragged_vocabulary_streams_without_spills(architecture: int) -> None:
    check(BERT, torch.bfloat16, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("case", cases.CASES["mlm_loss"], ids=str)
def test_every_vocabulary_streams_without_spills(case: Case, dtype: torch.dtype, architecture: int) -> None:
    check(case, dtype, architecture)


def test_a_kernel_serves_every_number_of_rows() -> None:
    other = mlm_loss_case("other", tokens=80, width=8, vocabulary=30522, masked=48)
    one, two = (recorder.launches(loss, case.make(torch.bfloat16)) for case in (BERT, other))
    for first, second in zip(one, two, strict=True):
        assert (first.signature, first.constants, first.aligned) == (second.signature, second.constants, second.aligned)


def test_evaluation_launches_statistics_alone() -> None:
    inputs = BERT.make(torch.bfloat16)
    frozen = partial(_with_one_gradient, inputs.arguments)
    names = [launch.name for launch in recorder.launches(frozen, inputs.change())]
    assert names == ["_statistics_kernel"]


def _with_one_gradient(arguments: Any, **leaves: Tensor) -> Tensor:
    """The loss without gradients, joined to the leaves so that there is something to differentiate."""
    with torch.no_grad():
        value = loss(**arguments)
    return value + sum(leaf.sum() * 0 for leaf in leaves.values() if isinstance(leaf, Tensor) and leaf.requires_grad)
