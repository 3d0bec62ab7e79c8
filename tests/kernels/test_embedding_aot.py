"""embedding's Triton kernels compiled for GPUs that are not here: nothing spills, no atomics, loads are wide."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from offline import aot, cases, recorder
from unmask_kernels import embedding
from unmask_kernels.capability import HAS_TRITON, INTERPRETING
from unmask_kernels.testing.embedding import embedding_case
from unmask_kernels.testing.inputs import Case

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="package triton is not installed"),
    pytest.mark.skipif(INTERPRETING, reason="an interpreted kernel cannot be compiled"),
]

KERNELS = ["_forward_kernel", "_prepare_kernel", "grad_word_kernel", "grad_position_kernel", "_finish_kernel"]
EDGES = [
    embedding_case([9], 768, segments=None),
    embedding_case([9], 768, segments=4),
    embedding_case([9], 768, segments=3, p=0.1),
    embedding_case([3], 2048, p=0.1),
    embedding_case([3], 4096, p=0.1),
]


def check(case: Case, dtype: torch.dtype, architecture: int) -> None:
    launches = recorder.launches(partial(embedding, backend="triton"), case.make(dtype))
    assert [launch.name for launch in launches] == KERNELS
    for launch in launches:
        kernel = aot.build(launch, architecture)
        assert kernel.spills == 0, kernel
        assert kernel.stack_bytes == 0, kernel
        assert kernel.wide_accesses > 0 or launch.name == "_prepare_kernel", kernel
        # Deterministic sums: no atomics in any form.
        assert not {"RED", "ATOM", "ATOMG"} & kernel.instructions.keys(), kernel


@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_rows_and_sums_stay_in_registers(architecture: int) -> None:
    check(embedding_case([40, 24], 768, p=0.1), torch.bfloat16, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("case", [*cases.CASES["embedding"], *EDGES], ids=str)
def test_rows_and_sums_stay_in_registers_everywhere(case: Case, dtype: torch.dtype, architecture: int) -> None:
    check(case, dtype, architecture)


def test_numbers_that_change_from_batch_to_batch_are_not_compiled_in() -> None:
    launches = recorder.launches(
        partial(embedding, backend="triton"), embedding_case([40, 24], 768).make(torch.bfloat16)
    )
    of_batch = {"rows", "span", "programs", "documents", "vocabulary", "positions"}
    assert all(not of_batch & {*launch.constants, *launch.aligned} for launch in launches)
