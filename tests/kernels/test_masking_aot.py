"""masking's Triton kernel compiled for GPUs that are not here: one launch, nothing spills, no atomics."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from offline import aot, cases, recorder
from unmask_kernels import masking
from unmask_kernels.capability import HAS_TRITON, INTERPRETING
from unmask_kernels.testing.inputs import Case
from unmask_kernels.testing.masking import masking_case

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="package triton is not installed"),
    pytest.mark.skipif(INTERPRETING, reason="an interpreted kernel cannot be compiled"),
]


def check(case: Case, architecture: int) -> None:
    (launch,) = recorder.launches(partial(masking, backend="triton"), case.make(torch.float32))
    kernel = aot.build(launch, architecture)
    assert kernel.spills == kernel.stack_bytes == 0, kernel
    assert not {"RED", "ATOM", "ATOMG"} & kernel.instructions.keys(), kernel


@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_a_document_stays_in_registers(architecture: int) -> None:
    check(masking_case("words", [512], words=0.6), architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("case", cases.CASES["masking"], ids=str)
def test_a_document_stays_in_registers_whatever_its_length(case: Case, architecture: int) -> None:
    check(case, architecture)


def test_numbers_that_change_from_batch_to_batch_are_not_compiled_in() -> None:
    (launch,) = recorder.launches(
        partial(masking, backend="triton"), masking_case("words", [30, 18], words=0.6).make(torch.float32)
    )
    numbers = {"documents", "capacity", "numerator", "denominator", "num_ordinary", "mask_id"}
    assert not numbers & {*launch.constants, *launch.aligned}
    assert launch.constants["BLOCK"] == 32
