"""Persistent Triton kernels with one or two programs, each of which then computes many tiles.

On a GPU a kernel starts hundreds of programs, and a small test has fewer tiles than that. Without these tests no
program would compute a second tile, which reuses sums in registers, scratch and prefetched operands of the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from unmask_kernels import attention, embedding, gelu, layer_norm, linear_gelu
from unmask_kernels._triton import launch
from unmask_kernels.attention import schedule
from unmask_kernels.capability import INTERPRETING
from unmask_kernels.testing import contracts
from unmask_kernels.testing.attention import attention_case
from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.embedding import embedding_case
from unmask_kernels.testing.gelu import gelu_case
from unmask_kernels.testing.inputs import Case, run
from unmask_kernels.testing.layer_norm import layer_norm_case
from unmask_kernels.testing.linear_gelu import linear_gelu_case

if INTERPRETING:
    DEVICES = [pytest.param("cpu", marks=pytest.mark.triton)]
else:
    DEVICES = [pytest.param("cuda", marks=[pytest.mark.triton, pytest.mark.gpu])] * torch.cuda.is_available()

LARGE = 1 if INTERPRETING else 4
LENGTHS = [70, 3, 64, 1, 66] if INTERPRETING else [130, 600, 70, 7, 64, 1, 33] * 4
ROWS: dict[str, tuple[Callable[..., Any], Case, Callable[[], AbstractContextManager[None]]]] = {
    "attention": (attention, attention_case("many", LENGTHS, heads=1, p=0.1), nullcontext),
    "attention in two kernels": (
        attention,
        attention_case("many", LENGTHS, heads=1, p=0.1),
        partial(schedule, fused_up_to=64),
    ),
    "attention that draws in the kernels": (
        attention,
        attention_case("many", LENGTHS, heads=1, p=0.1),
        partial(schedule, bitmask_up_to=0),
    ),
    "embedding": (embedding, embedding_case(LENGTHS, 40, p=0.1), nullcontext),
    "gelu": (gelu, gelu_case(50 * LARGE, 300), nullcontext),
    "layer_norm": (layer_norm, layer_norm_case(60 * LARGE, 128, p=0.1), nullcontext),
    "linear_gelu": (linear_gelu, linear_gelu_case(150 * LARGE, 40, 200 * LARGE), nullcontext),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ROWS)
def test_a_program_that_takes_many_tiles_gives_what_many_programs_give(name: str, device: str) -> None:
    function, case, form = ROWS[name]
    inputs = case.make(torch.float32, device)
    truth, plain = (run(partial(function, backend="reference"), given) for given in (inputs.double(), inputs))
    results = []
    for programs in (1, 2):
        with form(), mock.patch.object(launch, "MOST_PROGRAMS", programs), contracts.poisoned_memory():
            results.append(run(partial(function, backend="triton"), inputs))
        compare(results[-1], plain, truth)
    if name.startswith("attention"):
        # one program writes each element, and its value does not depend on which program that is
        same_bits(results[0], results[1], "one program and two")
